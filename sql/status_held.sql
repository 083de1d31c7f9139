-- How many pending messages that do not wait for a time wait behind each holder ($1 topics, $2 keys, $3 seqs). Looks at the first $4 pending messages
-- past the first holder, so that a backlog of millions does not make it slow.
-- Locks nothing. Index on pending rows.
with holder as (
    select h.topic, h.key, min(h.seq) as seq
    from unnest($1::text[], $2::text[], $3::bigint[]) as h (topic, key, seq)
    group by h.topic, h.key
), page as materialized (
    select m.{c.seq} as seq, m.{c.topic} as topic, m.{c.key} as key
    from {messages} m
    where {pending} and {ready} and m.{c.seq} > (select min(seq) from holder)
    order by m.{c.seq}
    limit $4::bigint
)
select h.topic, h.key, h.seq, count(p.seq)
from holder h
left join page p on p.topic = h.topic and p.key = h.key and p.seq > h.seq
group by h.topic, h.key, h.seq

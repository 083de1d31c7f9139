-- How many pending messages that do not wait for a time wait behind each holder ($1 topics, $2 hashes of keys, $3 seqs). Looks at
-- the first $4 pending messages past the first holder, so that a backlog of millions does not make it slow.
-- Locks nothing. Index on pending rows.
with holder as (
    select h.topic, h.hash, min(h.seq) as seq
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as h (topic, hash, seq)
    group by h.topic, h.hash
), page as materialized (
    select m.{c.seq} as seq, m.{c.topic} as topic, {key_hash} as hash
    from {messages} m
    where {pending} and {ready} and m.{c.seq} > (select min(seq) from holder)
    order by m.{c.seq}
    limit $4::bigint
)
select h.topic, h.hash, count(p.seq)
from holder h
join page p on p.topic = h.topic and p.hash = h.hash and p.seq > h.seq
group by h.topic, h.hash

-- Which relayed messages a replay means: looks at the next $3 rows past $1, up to $2, and chooses the first $4 of them which every
-- filter given lets through; and where to go on. Rows relayed after the command began ($9) are not its business.
-- Locks nothing. Primary key: a step's cost is bounded however few rows are meant; a page is in order and is read no further
-- than to the last row chosen.
-- $5 topic, $6 key, $7 and $8 relayed since and until
with page as materialized (
    select m.{c.seq} as seq, m.{c.id}::text as id, coalesce(m.{c.replay}, 0) as replay,
           m.{c.relayed_at} <= $9::timestamptz
           and ($5::text is null or m.{c.topic} = $5)
           and ($6::text is null or m.{c.key} = $6)
           and ($7::timestamptz is null or m.{c.relayed_at} >= $7)
           and ($8::timestamptz is null or m.{c.relayed_at} <= $8) as meant
    from {messages} m
    where m.{c.seq} > $1 and m.{c.seq} <= $2
    order by m.{c.seq}
    limit $3
), chosen as (
    select p.seq, p.id, p.replay from page p where p.meant limit $4
)
select coalesce((select array_agg(seq order by seq) from chosen), '{}') as seqs,
       coalesce((select array_agg(id order by seq) from chosen), '{}') as ids,
       coalesce((select array_agg(replay order by seq) from chosen), '{}') as replays,
       case when (select count(*) from chosen) = $4 then (select max(seq) from chosen)
            else coalesce((select max(seq) from page), $2) end as upto

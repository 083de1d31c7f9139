-- As prune.sql looks at rows, without deleting: how many of the next $2 rows past $1 were settled longer than $3 seconds ago.
-- Locks nothing. Index: primary key; for failed rows, theirs. One clock.
with page as materialized (
    select m.{c.seq} as seq, {settled_at} as settled_at
    from {messages} m
    where m.{c.seq} > $1 and {looked_at}
    order by m.{c.seq}
    limit $2
)
select true as mine, true as ours, count(*) as rows, max(p.seq) as upto,
       count(*) filter (where p.settled_at >= now() - make_interval(secs => $3::double precision)) as young,
       count(*) filter (where p.settled_at < now() - make_interval(secs => $3::double precision)) as deleted,
       0::bigint as kept, '{}'::bigint[] as kept_first
from page p

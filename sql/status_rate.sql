-- Messages relayed a second, over the last $2 seconds. Marks have no index (it would cost every mark), so three windows of
-- $1 rows are looked at: the newest rows, and those before and after the first pending one, where a relay with a backlog is.
-- Where a window is full of recent marks, the rate is that of the time they took.
-- Locks nothing. Primary key and the index on pending rows.
with head as (
    select m.{c.seq} as seq from {messages} m where {pending} and {ready} order by m.{c.seq} limit 1
), looked_at as (
    (select n.{c.seq}, n.{c.relayed_at} as at from {messages} n order by n.{c.seq} desc limit $1::bigint)
    union
    (select n.{c.seq}, n.{c.relayed_at} from {messages} n where n.{c.seq} < (select seq from head)
     order by n.{c.seq} desc limit $1::bigint)
    union
    (select n.{c.seq}, n.{c.relayed_at} from {messages} n where n.{c.seq} > (select seq from head)
     order by n.{c.seq} limit $1::bigint)
), recent as (
    select at from looked_at where at > now() - make_interval(secs => $2::double precision)
)
select case when count(*) = 0 then 0
            when count(*) < $1::bigint then count(*) / $2::double precision
            else count(*) / greatest(extract(epoch from now() - least(min(at), now())), 0.001) end::double precision
from recent

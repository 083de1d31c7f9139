-- What has appeared in some of the gaps being watched, in the snapshot of the page before it.
-- Locks nothing. Index: primary key, one probe per gap. Law: no gaps, ordered per key.
-- $1 and $2 first and last number of each gap, $3 lanes held, one bit each, $4 rows at most, $5 and $6 rows that cannot be read
-- (see unreadable.rs)
select {passed}
from (
  select {passing}, true as late
  from unnest($1::bigint[], $2::bigint[]) with ordinality g(first, last, place)
  cross join lateral (
    select * from {messages} n
    where n.{c.seq} between g.first and g.last
    order by n.{c.seq}
    limit $4
  ) m
  cross join (select $5::bigint[] as contents, $6::bigint[] as places) u
  order by m.{c.seq}
  limit $4
) p {later_bodies}
order by p.seq

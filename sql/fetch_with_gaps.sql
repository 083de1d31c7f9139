-- The cursor's page as in fetch.sql and, in the same snapshot, whatever has appeared in the gaps being watched: a row that
-- shows up late is found here, and a gap nobody can fill any more is seen to be still empty.
-- Locks nothing. Index: primary key, one probe per gap. Law: no gaps.
-- $1 cursor, $2 rows at most of each part, $3 lanes held, one bit each, $4 and $5 first and last number of each gap, $6 and $7
-- rows that cannot be read (see unreadable.rs)
select {passed}
from (
  (
    select {passing}, true as late
    from unnest($4::bigint[], $5::bigint[]) with ordinality g(first, last, place)
    cross join lateral (
      select * from {messages} n
      where n.{c.seq} between g.first and g.last
      order by n.{c.seq}
      limit $2
    ) m
    cross join (select $6::bigint[] as contents, $7::bigint[] as places) u
    order by m.{c.seq}
    limit $2
  )
  union all
  (
    select {passing}, false as late
    from {messages} m
    cross join (select $6::bigint[] as contents, $7::bigint[] as places) u
    where m.{c.seq} > $1 and m.{c.seq} <= {ceiling}
    order by m.{c.seq}
    limit $2
  )
) p {later_bodies}
order by p.late desc, p.seq

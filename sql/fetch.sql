-- The cursor's page: every row past it in seq order, with its payload only when it is pending, mine and not waiting for a
-- time. Rows of other lanes and rows relayed already are needed too: a number that is missing is a gap. No further than the
-- sequence has come: its last number is read after the snapshot was taken, so every number a row it shows was given is there.
-- Locks nothing. Index: primary key. Law: no gaps, ordered per key.
-- $1 cursor, $2 rows at most, $3 lanes held, one bit each, $4 and $5 rows that cannot be read (see unreadable.rs)
select {passed}
from (
  select {passing}, false as late
  from {messages} m
  cross join (select $4::bigint[] as contents, $5::bigint[] as places) u
  where m.{c.seq} > $1 and m.{c.seq} <= {ceiling}
  order by m.{c.seq}
  limit $2
) p {later_bodies}
order by p.seq

-- The cursor's page: every row past it in seq order, with its payload only when it is pending, mine and not waiting for a
-- time. Rows of other lanes and rows relayed already are needed too: a number that is missing is a gap. No further than the
-- sequence has come: its last number is read after the snapshot was taken, so what it has given is all there.
-- Locks nothing. Index: primary key. Law: no gaps, ordered per key.
-- $1 cursor, $2 rows at most, $3 lanes held, one bit each, $4 the sequence or null
select {passed}
from (
  select {passing}, false as late
  from {messages} m
  where m.{c.seq} > $1 and m.{c.seq} <= (select case when $4::oid is null then 9223372036854775807
      else coalesce(pg_sequence_last_value($4::regclass), 0) end)
  order by m.{c.seq}
  limit $2
) p
order by p.seq

-- Pending rows whose numbers the sequence has not reached: they were written by hand, and the cursor never comes to them.
-- Locks nothing. Index: pending, in its order. Law: no gaps.
-- $1 rows at most, $2 lanes held, one bit each, $3 the sequence, $4 after
select {message}
from {messages} m
where m.{c.seq} > (select greatest(coalesce(pg_sequence_last_value($3::oid::regclass), 0), $4)) and {pending} and not {waiting}
  and get_bit($2::bytea, {lane}::int) <> 0
order by m.{c.seq}
limit $1

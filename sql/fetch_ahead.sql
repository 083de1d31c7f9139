-- Pending rows whose numbers the sequence has not reached: they were written by hand, and the cursor never comes to them.
-- Locks nothing. Index: pending, in its order. Law: no gaps.
-- $1 rows at most, $2 lanes held, one bit each, $3 after
select {message}
from {messages} m
where m.{c.seq} > greatest({ceiling}, $3) and {pending} and not {waiting}
  and get_bit($2::bytea, {lane}::int) <> 0
order by m.{c.seq}
limit $1

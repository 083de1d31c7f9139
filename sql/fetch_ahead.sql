-- Pending rows whose numbers the sequence has not reached: they were written by hand, and the cursor never comes to them.
-- Locks nothing. Index: pending, in its order. Law: no gaps.
-- $1 rows at most, $2 lanes held, one bit each, $3 after, $4 and $5 rows that cannot be read (see unreadable.rs)
select {message}
from {messages} m
cross join (select $4::bigint[] as contents, $5::bigint[] as places) u {bodies}
where m.{c.seq} > greatest({ceiling}, $3) and {pending} and {ready}
  and (u.places is null or get_bit($2::bytea, {lane}::int) <> 0)
order by m.{c.seq}
limit $1

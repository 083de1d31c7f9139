-- Rows that waited for a time (a retry, a delay, an operator's retry or replay) and are due, earliest first.
-- Locks nothing. Index: waiting (the planner takes `<> 0` for true of nearly every row, `= 1` for true of one in 200, and
-- would rather scan all that is pending). One clock: the database's.
-- $1 and $2 position of the last row seen (available_at in microseconds, seq), $3 highest seq, $4 rows at most, $5 lanes held
-- Past what the sequence has given no cursor comes: rows are due there as anywhere.
select {message},
  (extract(epoch from greatest(m.{c.available_at}, timestamptz 'epoch')) * 1000000)::bigint as due_at
from {messages} m
where {pending} and {waiting} and m.{c.available_at} <= now() 
  and (m.{c.seq} <= $3 or m.{c.seq} > {ceiling})
  and (m.{c.available_at}, m.{c.seq}) > (timestamptz 'epoch' + $1 * interval '1 microsecond', $2)
  and get_bit($5::bytea, {lane}::int) <> 0
order by m.{c.available_at}, m.{c.seq}
limit $4

-- Rows that waited for a time (a retry, a delay, an operator's retry or replay) and are due, earliest first.
-- Locks nothing. Index: waiting (the planner takes `<> 0` for true of nearly every row, `= 1` for true of one in 200, and
-- would rather scan all that is pending). One clock: the database's.
-- $1 and $2 position of the last row seen (available_at in microseconds, the lowest number: minus infinity; seq), $3 highest seq,
-- $4 rows at most, $5 lanes held, $6 and $7 rows that cannot be read (see unreadable.rs)
-- Past what the sequence has given no cursor comes: rows are due there as anywhere.
select {message},
  case when m.{c.available_at} = timestamptz '-infinity' then '-9223372036854775808'::bigint
    else (extract(epoch from m.{c.available_at}) * 1000000)::bigint end as due_at
from {messages} m
cross join (select $6::bigint[] as contents, $7::bigint[] as places) u {bodies}
where {pending} and {waits} and m.{c.available_at} <= now()
  and (m.{c.seq} <= $3 or m.{c.seq} > {ceiling})
  and (m.{c.available_at}, m.{c.seq}) > (case when $1 = '-9223372036854775808'::bigint then timestamptz '-infinity'
    else timestamptz 'epoch' + $1 * interval '1 microsecond' end, $2)
  and (u.places is null or get_bit($5::bytea, {lane}::int) <> 0)
order by m.{c.available_at}, m.{c.seq}
limit $4

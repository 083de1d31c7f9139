-- Pending rows of a range, not waiting for a time: of lanes taken over (all of them after a start), what a destination or a
-- key's hold left behind, the safety sweep.
-- Locks nothing. Index: pending. Law: no gaps (the net), ordered per key.
-- $1 after, $2 up to, $3 rows at most, $4 lanes held, one bit each, $5 topics or null, $6 key or null
select {message}
from {messages} m
where m.{c.seq} > $1 and m.{c.seq} <= $2 and {pending} and not {waiting}
  and get_bit($4::bytea, {lane}::int) = 1
  and ($5::text[] is null or m.{c.topic} = any($5::text[]))
  and ($6::text is null or m.{c.key} = $6::text)
order by m.{c.seq}
limit $3

-- Pending rows of a range, not waiting for a time: of lanes taken over (all of them after a start), what a destination or a
-- key's hold left behind, the safety sweep.
-- Locks nothing. Index: pending, in its order. The conditions are written so that the planner expects many rows of a page to
-- fit (`= 1` it takes for true of one in 200, `$5 is null` for nearly never): expecting few, it sorts all that is pending.
-- Law: no gaps (the net), ordered per key.
-- $1 after, $2 up to, $3 rows at most, $4 lanes held, one bit each, $5 topics or null, $6 what tells a key or null, $7 and $8 rows that cannot
-- be read (see unreadable.rs)
select {message}
from {messages} m
cross join (select $7::bigint[] as contents, $8::bigint[] as places) u {bodies}
where m.{c.seq} > $1 and m.{c.seq} <= $2 and {pending} and {ready}
  and (u.places is null or get_bit($4::bytea, {lane}::int) <> 0)
  and coalesce(u.places is null or $5::text[] is null
    or case when m.{c.seq} <> all(u.contents) then m.{c.topic} = any($5::text[]) end, false)
  and coalesce(u.places is null or $6::bytea is null or {key_id} = $6::bytea, false)
order by m.{c.seq}
limit $3

-- Rows with a priority, the highest first: those that go before all others.
-- Locks nothing. Index: priority, in its order. Law: urgent (all of it in one snapshot).
-- $1 rows at most, $2 lanes held, one bit each, $3 topics left out, $4 and $5 rows that cannot be read (see unreadable.rs)
select {message}
from {messages} m
cross join (select $4::bigint[] as contents, $5::bigint[] as places) u {bodies}
where m.{c.priority} > 0 and {pending} and {ready}
  and (u.places is null or get_bit($2::bytea, {lane}::int) <> 0)
  and coalesce(u.places is null or case when m.{c.seq} <> all(u.contents) then m.{c.topic} <> all($3::text[]) end, true)
order by m.{c.priority} desc, m.{c.seq}
limit $1

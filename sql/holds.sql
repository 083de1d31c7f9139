-- Rows that hold their key: retrying ones, those an operator retries (they start over at attempt 1, and keep their last
-- error) and, where asked for, failed ones. Whose key cannot be read holds nobody. Keys stay here, however long they are: what
-- tells one from another is all that is needed.
-- Locks nothing. Indexes: waiting, failed.
-- $1 lanes held, one bit each, $2 failed ones too, $3 and $4 rows that cannot be read (see unreadable.rs)
select m.{c.seq} as seq, {lane}::int as lane, {known.topic} as topic, {key_id} as key_id, false as failed
from {messages} m
cross join (select $3::bigint[] as contents, $4::bigint[] as places) u
where {pending} and {waits} and (m.{c.attempt} > 1 or m.{c.last_error} is not null) and m.{c.key} is not null
  and (u.places is null or get_bit($1::bytea, {lane}::int) = 1)
union all
select m.{c.seq}, {lane}::int, {known.topic}, {key_id}, true
from {messages} m
cross join (select $3::bigint[] as contents, $4::bigint[] as places) u
where $2 and m.{c.failed_at} is not null and m.{c.key} is not null
  and (u.places is null or get_bit($1::bytea, {lane}::int) = 1)

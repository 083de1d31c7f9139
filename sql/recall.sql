-- The rows that were parked behind a key, now that it is free.
-- Locks nothing. Index: primary key. Law: ordered per key.
-- $1 seqs, $2 lanes held, one bit each, $3 and $4 rows that cannot be read (see unreadable.rs)
select {message}
from {messages} m
cross join (select $3::bigint[] as contents, $4::bigint[] as places) u {bodies}
where m.{c.seq} = any($1::bigint[]) and {pending} and {ready} and (u.places is null or get_bit($2::bytea, {lane}::int) = 1)
order by m.{c.seq}

-- The rows that were parked behind a key, now that it is free.
-- Locks nothing. Index: primary key. Law: ordered per key.
-- $1 seqs, $2 lanes held, one bit each
select {message}
from {messages} m
where m.{c.seq} = any($1::bigint[]) and {pending} and not {waiting} and get_bit($2::bytea, {lane}::int) = 1
order by m.{c.seq}

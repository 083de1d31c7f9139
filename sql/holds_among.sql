-- Which of these rows still hold their key.
-- Locks nothing. Index: primary key.
-- $1 lanes held, one bit each, $2 seqs, $3 and $4 rows that cannot be read (see unreadable.rs)
select m.{c.seq} as seq, {lane}::int as lane, {known.topic} as topic, {known.key} as key,
  m.{c.failed_at} is not null as failed
from {messages} m
cross join (select $3::bigint[] as contents, $4::bigint[] as places) u
where m.{c.seq} = any($2::bigint[]) and m.{c.relayed_at} is null and (m.{c.failed_at} is not null or {waits})
  and m.{c.key} is not null and (u.places is null or get_bit($1::bytea, {lane}::int) = 1)

-- The rows that were parked behind a key, now that it is free.
-- Locks nothing. Index: primary key. Law: ordered per key.
-- $1 seqs, $2 lanes held, one bit each
select m.{c.seq} as seq, {lane}::int as lane, m.{c.id} as id, m.{c.topic} as topic, m.{c.key} as key,
  m.{c.payload} as payload, m.{c.headers} as headers, m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts,
  m.{c.replay} as replay,
  date_part('epoch', now() - greatest(least(m.{c.inserted_at}, now()), now() - interval '1 year')) as age
from {messages} m
where m.{c.seq} = any($1::bigint[]) and {pending} and not {waiting} and get_bit($2::bytea, {lane}::int) = 1
order by m.{c.seq}

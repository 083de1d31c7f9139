-- Which of these rows still hold their key.
-- Locks nothing. Index: primary key.
-- $1 lanes held, one bit each, $2 seqs
select m.{c.seq} as seq, {lane}::int as lane, m.{c.topic} as topic, m.{c.key} as key, m.{c.failed_at} is not null as failed
from {messages} m
where m.{c.seq} = any($2::bigint[]) and m.{c.relayed_at} is null and (m.{c.failed_at} is not null or {waiting})
  and m.{c.key} is not null and get_bit($1::bytea, {lane}::int) = 1

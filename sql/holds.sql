-- Rows that hold their key: retrying ones, those an operator retries (they start over at attempt 1, and keep their last
-- error) and, where asked for, failed ones.
-- Locks nothing. Indexes: waiting, failed.
-- $1 lanes held, one bit each, $2 failed ones too
select m.{c.seq} as seq, {lane}::int as lane, m.{c.topic} as topic, m.{c.key} as key, false as failed
from {messages} m
where {pending} and {waiting} and (m.{c.attempt} > 1 or m.{c.last_error} is not null) and m.{c.key} is not null
  and get_bit($1::bytea, {lane}::int) = 1
union all
select m.{c.seq}, {lane}::int, m.{c.topic}, m.{c.key}, true
from {messages} m
where $2 and m.{c.failed_at} is not null and m.{c.key} is not null and get_bit($1::bytea, {lane}::int) = 1

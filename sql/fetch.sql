-- The cursor's page: every row past it in seq order, with its payload only when it is pending, mine and not waiting for a
-- time. Rows of other lanes and rows relayed already are needed too: a number that is missing is a gap.
-- `state`: 1 to be sent now, 2 waits for a time, 0 neither.
-- Locks nothing. Index: primary key. Law: no gaps, ordered per key.
-- $1 cursor, $2 rows at most, $3 lanes held, one bit each
select p.seq, p.lane, p.id, p.topic, p.key,
  case when p.state = 1 then p.payload end as payload, case when p.state = 1 then p.headers end as headers,
  p.attempt, p.max_attempts, p.replay, p.inserted_at, p.now,
  p.state, case when p.state = 2 then p.available_at end as available_at, false as late
from (
  select {message}, m.{c.available_at}::timestamptz as available_at,
    case when not ({pending}) or get_bit($3::bytea, {lane}::int) = 0 then 0 when {waiting} then 2 else 1 end as state
  from {messages} m
  where m.{c.seq} > $1
  order by m.{c.seq}
  limit $2
) p
order by p.seq

-- The cursor's page: every row past it in seq order, with its payload only when it is pending, mine and not waiting for a
-- time. Rows of other lanes and rows relayed already are needed too: a number that is missing is a gap.
-- Locks nothing. Index: primary key. Law: no gaps, ordered per key.
-- $1 cursor, $2 rows at most, $3 lanes held, one bit each
select s.seq, false as late, s.lane, s.wanted,
  case when s.open and s.waits and get_bit($3::bytea, s.lane) = 1 then s.due_in end as due_in,
  case when s.wanted then s.id end as id,
  case when s.wanted then s.topic end as topic,
  case when s.wanted then s.key end as key,
  case when s.wanted then s.payload end as payload,
  case when s.wanted then s.headers end as headers,
  s.attempt, s.max_attempts, s.replay, s.age
from (
  select p.*, p.open and not p.waits and get_bit($3::bytea, p.lane) = 1 as wanted
  from (
    select m.{c.seq} as seq, {lane}::int as lane, {pending} as open, {waiting} as waits,
      date_part('epoch', least(m.{c.available_at}, now() + interval '1 hour') - now()) as due_in,
      m.{c.id} as id, m.{c.topic} as topic, m.{c.key} as key, m.{c.payload} as payload, m.{c.headers} as headers,
      m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay,
      date_part('epoch', now() - greatest(least(m.{c.inserted_at}, now()), now() - interval '1 year')) as age
    from {messages} m
    where m.{c.seq} > $1
    order by m.{c.seq}
    limit $2
  ) p
) s
order by s.seq

-- The cursor's page as in fetch.sql and, in the same snapshot, whatever has appeared in the gaps being watched: a row that
-- shows up late is found here, and a gap nobody can fill any more is seen to be still empty.
-- Locks nothing. Index: primary key, one probe per gap. Law: no gaps.
-- $1 cursor, $2 rows at most of each part, $3 lanes held, one bit each, $4 and $5 first and last number of each gap
select s.seq, s.late, s.lane, s.wanted,
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
    (
      select m.{c.seq} as seq, true as late, {lane}::int as lane, {pending} as open, {waiting} as waits,
        date_part('epoch', least(m.{c.available_at}, now() + interval '1 hour') - now()) as due_in,
        m.{c.id} as id, m.{c.topic} as topic, m.{c.key} as key, m.{c.payload} as payload, m.{c.headers} as headers,
        m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay,
        date_part('epoch', now() - greatest(least(m.{c.inserted_at}, now()), now() - interval '1 year')) as age
      from unnest($4::bigint[], $5::bigint[]) with ordinality g(first, last, place)
      cross join lateral (
        select * from {messages} n
        where n.{c.seq} between g.first and g.last
        order by n.{c.seq}
        limit $2
      ) m
      order by m.{c.seq}
      limit $2
    )
    union all
    (
      select m.{c.seq} as seq, false as late, {lane}::int as lane, {pending} as open, {waiting} as waits,
        date_part('epoch', least(m.{c.available_at}, now() + interval '1 hour') - now()) as due_in,
        m.{c.id} as id, m.{c.topic} as topic, m.{c.key} as key, m.{c.payload} as payload, m.{c.headers} as headers,
        m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay,
        date_part('epoch', now() - greatest(least(m.{c.inserted_at}, now()), now() - interval '1 year')) as age
      from {messages} m
      where m.{c.seq} > $1
      order by m.{c.seq}
      limit $2
    )
  ) p
) s
order by s.late desc, s.seq

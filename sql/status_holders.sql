-- The messages that may hold their key: the first retrying and the first failed one of each (topic, key), oldest first.
-- Whether they do is the route's business. At most $1 of them. What failed because its topic or key cannot be read is not
-- looked at again.
-- Locks nothing. Indexes on waiting and on failed rows.
select held.topic, held.key, min(held.seq), held.failed
from (
    select m.{c.topic} as topic, m.{c.key} as key, m.{c.seq} as seq, false as failed
    from {messages} m where {pending} and {waits}
      and (m.{c.attempt} > 1 or m.{c.last_error} is not null) and m.{c.key} is not null
    union all
    select m.{c.topic}, m.{c.key}, m.{c.seq}, true
    from {messages} m where m.{c.failed_at} is not null and m.{c.key} is not null
      and {legible}
) held
where held.topic is not null
group by held.topic, held.key, held.failed
order by min(held.seq)
limit $1::bigint

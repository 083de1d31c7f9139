-- The messages that may hold their key: the first retrying and the first failed one of each (topic, key), oldest first.
-- Whether they do is the route's business. At most $1 of them, of the first $2 messages of each kind. Keys are compared by their
-- hash: they may be long. What failed because its topic or key cannot be read is not looked at again.
-- Locks nothing. Indexes on waiting and on failed rows.
select held.topic, held.hash, min(held.seq), held.failed
from (
    (select m.{c.topic} as topic, {key_hash} as hash, m.{c.seq} as seq, false as failed
    from {messages} m where {pending} and {waits}
      and (m.{c.attempt} > 1 or m.{c.last_error} is not null) and m.{c.key} is not null
    order by m.{c.available_at} limit $2::bigint)
    union all
    (select m.{c.topic}, {key_hash}, m.{c.seq}, true
    from {messages} m where m.{c.failed_at} is not null and m.{c.key} is not null
      and {legible}
    order by m.{c.seq} limit $2::bigint)
) held
where held.topic is not null
group by held.topic, held.hash, held.failed
order by min(held.seq)
limit $1::bigint

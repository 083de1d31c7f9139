-- Failed messages among $1 whole, in order: as many as fit $2 bytes as they are stored, and one at least. The payload comes as
-- bytes, so that nothing of it is lost on the way; times as ISO 8601 text.
-- Locks nothing. Primary key.
with sized as materialized (
    select m.{c.seq} as seq, pg_column_size(m.{c.payload})::bigint as size
    from {messages} m
    where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
), fitting as (
    select s.seq, sum(s.size) over (order by s.seq) - s.size as before from sized s
)
select m.{c.seq} as seq, m.{c.id}::text as id, m.{c.topic} as topic, m.{c.key} as key,
       coalesce(m.{c.headers}::text, '{}') as headers, {payload_bytes} as payload, m.{c.priority}::integer as priority,
       m.{c.max_attempts} as max_attempts, m.{c.replay} as replay, m.{c.attempt} as attempt,
       to_json(m.{c.failed_at}) #>> '{}' as failed_at, m.{c.last_error} as last_error,
       to_json(m.{c.inserted_at}) #>> '{}' as inserted_at
from {messages} m
where m.{c.seq} = any (array(select f.seq from fitting f where f.before < $2::bigint)) and m.{c.failed_at} is not null
order by m.{c.seq}

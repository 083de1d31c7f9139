-- Failed messages among $1 whole, in order: as many as fit $2 bytes as they are stored, and one at least. The payload comes as
-- bytes, so that nothing of it is lost on the way; times as ISO 8601 text. Columns that cannot be read ($3) are left out.
-- Locks nothing. Primary key.
with sized as materialized (
    select m.{c.seq} as seq, coalesce(pg_column_size(m.{c.payload}), 0)::bigint as size
    from {whole} m
    where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
), fitting as (
    select s.seq, sum(s.size) over (order by s.seq) - s.size as before from sized s
)
select m.{c.seq} as seq, m.{c.id}::text as id, case when 'topic' <> all ($3::text[]) then m.{c.topic} end as topic,
       case when 'key' <> all ($3::text[]) then m.{c.key} end as key,
       case when 'headers' <> all ($3::text[]) then coalesce(m.{c.headers}::text, '{}') end as headers,
       case when 'payload' <> all ($3::text[]) then {payload_bytes} end as payload,
       least(greatest(m.{c.priority}::bigint, -2147483648), 2147483647)::integer as priority,
       m.{c.max_attempts} as max_attempts, coalesce(m.{c.replay}, 0) as replay, coalesce(m.{c.attempt}, 1) as attempt,
       to_json(m.{c.failed_at}) #>> '{}' as failed_at,
       case when 'last_error' <> all ($3::text[]) then m.{c.last_error} end as last_error,
       to_json(m.{c.inserted_at}) #>> '{}' as inserted_at
from {whole} m
where m.{c.seq} = any (array(select f.seq from fitting f where f.before < $2::bigint)) and m.{c.failed_at} is not null
order by m.{c.seq}

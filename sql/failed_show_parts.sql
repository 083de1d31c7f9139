-- As failed_show.sql, of a row ($1, its seq) some columns of which cannot be read: {parts} are our columns, without those.
-- Locks nothing. Primary key.
select (select array_agg(f.key) from json_each(parts.row) f), (select array_agg(f.value::text) from json_each(parts.row) f),
       (select coalesce(json_agg(json_build_object('attempt', a.attempt, 'at', a.at, 'instance', a.instance, 'class', a.class,
                   'code', a.code, 'error', a.error, 'latency_ms', a.latency_ms) order by a.at, a.attempt), '[]')::text
        from {attempts} a where a.outbox = {table_text} and a.seq = m.{c.seq} and a.message_id = coalesce(m.{c.id}::text, ''))
from {whole} m
cross join lateral (select {parts} as row) parts
where m.{c.seq} = $1

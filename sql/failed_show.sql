-- One whole row, whatever its state, as column names and JSON values, and its failed attempts, oldest first. $1: its seq; $2: its message id.
-- The message id has no index (it would cost every insert), so a relayed row is found by its seq only.
-- Locks nothing. Primary key, or the indexes on failed and pending rows.
with found as (
    select m.{c.seq} as seq from {messages} m where m.{c.seq} = $1::bigint
    union
    select m.{c.seq} from {messages} m where m.{c.failed_at} is not null and m.{c.id}::text = $2::text
    union
    select m.{c.seq} from {messages} m where {pending} and m.{c.id}::text = $2::text
)
select (select array_agg(f.key) from json_each(row_to_json(m)) f), (select array_agg(f.value::text) from json_each(row_to_json(m)) f),
       (select coalesce(json_agg(json_build_object('attempt', a.attempt, 'at', a.at, 'instance', a.instance, 'class', a.class,
                   'code', a.code, 'error', a.error, 'latency_ms', a.latency_ms) order by a.at, a.attempt), '[]')::text
        from {attempts} a where a.outbox = {table_text} and a.seq = m.{c.seq} and a.message_id = coalesce(m.{c.id}::text, ''))
from {whole} m
where m.{c.seq} in (select seq from found)
order by m.{c.seq}

-- Counts of pending and failed messages. Each count stops at $1; the last column is the planner's idea of the pending ones,
-- which is good enough beyond that (the table is analysed every 100,000 changes).
-- Locks nothing. Indexes on pending, waiting and failed rows: relayed rows are never looked at.
select
    (select count(*) from (select from {messages} m where {pending} limit $1::bigint) p),
    (select count(*) from (select from {messages} m where {pending} and {waits}
        and coalesce(m.{c.attempt}, 1) = 1 and m.{c.available_at} > now() limit $1::bigint) d),
    (select count(*) from (select from {messages} m where {pending} and {waits} and m.{c.attempt} > 1 limit $1::bigint) r),
    (select count(*) from (select from {messages} m where m.{c.failed_at} is not null limit $1::bigint) f),
    (select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(format('%I.%I', {schema_text}, {name_text.pending})))

-- The columns of the outbox and of the service tables, with their types. Tables that do not exist give no rows.
-- Locks nothing; reads the catalog.
select t.name, a.attname::text, format_type(a.atttypid, null)
from unnest(array[{rows_text}, 'outboxd_lanes', 'outboxd_instances', 'outboxd_attempts', 'outboxd_audit',
    'outboxd_paused', 'outboxd_questions']) as t (name)
join pg_attribute a on a.attrelid = to_regclass(format('%I.%I', {schema_text}, t.name)) and a.attnum > 0 and not a.attisdropped

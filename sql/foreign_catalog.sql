-- The columns of a table, with their types and the length these are limited to; whether a column may be null.
-- Locks nothing; reads the catalog.
select a.attname::text as name, format_type(a.atttypid, null) as type,
  case when a.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and a.atttypmod > 4 then a.atttypmod - 4 end as length,
  not a.attnotnull as nullable
from pg_attribute a
where a.attrelid = to_regclass({messages_text}) and a.attnum > 0 and not a.attisdropped
order by a.attnum

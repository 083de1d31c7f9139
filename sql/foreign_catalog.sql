-- The columns of a table, with their types and the length these are limited to; whether a column may be null, and a collation of its own.
-- Locks nothing; reads the catalog.
select a.attname::text as name, format_type(a.atttypid, null) as type,
  case when a.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and a.atttypmod > 4 then a.atttypmod - 4 end as length,
  not a.attnotnull as nullable,
  (select format('%I.%I', s.nspname, l.collname) from pg_collation l join pg_namespace s on s.oid = l.collnamespace
   where l.oid = a.attcollation and l.collname <> 'default') as collation
from pg_attribute a
where a.attrelid = (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = {schema_text} and c.relname = {table_text} and c.relkind in ('r', 'p', 'v', 'm', 'f')) and a.attnum > 0 and not a.attisdropped
order by a.attnum

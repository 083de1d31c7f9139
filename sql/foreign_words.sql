-- What the columns of a table may hold that say how a row stands: the words of its checks and enumerations, what it is by default, and
-- what is most common in it.
-- Locks nothing; reads the catalog and the statistics.
select a.attname::text as name,
  coalesce(pg_get_expr(d.adbin, d.adrelid), '') as initial,
  coalesce((select string_agg(pg_get_constraintdef(k.oid), ' ') from pg_constraint k
            where k.conrelid = a.attrelid and k.contype = 'c' and a.attnum = any (k.conkey)), '') as checks,
  coalesce((select array_agg(e.enumlabel::text order by e.enumsortorder) from pg_enum e where e.enumtypid = a.atttypid), '{}') as labels,
  coalesce((select s.most_common_vals::text::text[] from pg_stats s
            where s.schemaname = {schema_text} and s.tablename = {table_text} and s.attname = a.attname), '{}') as common
from pg_attribute a
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = {schema_text} and c.relname = {table_text} and c.relkind in ('r', 'p', 'v', 'm', 'f')) and a.attnum > 0 and not a.attisdropped
order by a.attnum

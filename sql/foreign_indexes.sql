-- The valid b-tree indexes of a table: name, columns in order (null: an expression), whether each is in the usual order, whether it
-- is unique and over all rows.
-- Locks nothing; reads the catalog.
select c.relname::text as name,
  array(select a.attname::text from unnest(i.indkey::smallint[]) with ordinality k (number, place)
        left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
        where k.place <= i.indnkeyatts order by k.place) as columns,
  not exists (select from unnest(i.indoption::smallint[]) o (flags) where o.flags <> 0) as plain,
  -- Tables that inherit from it have indexes of their own.
  i.indisunique and not exists (
    select from pg_inherits h join pg_class p on p.oid = h.inhparent where h.inhparent = i.indrelid and p.relkind = 'r') as is_unique,
  i.indpred is null as whole
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_am m on m.oid = c.relam and m.amname = 'btree'
where i.indrelid = (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = {schema_text} and c.relname = {table_text} and c.relkind in ('r', 'p', 'v', 'm', 'f')) and i.indisvalid
order by c.relname

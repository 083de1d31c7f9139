-- Which of the rights wanted ($1 tables, $2 columns or null, $3 privileges, one of each) the current role lacks. What does not
-- exist is somebody else's complaint.
-- Locks nothing; reads the catalog.
select w.privilege, w.name, w.attribute
from unnest($1::text[], $2::text[], $3::text[]) with ordinality as w (name, attribute, privilege, place)
join pg_namespace n on n.nspname = {schema_text}
join pg_class c on c.relnamespace = n.oid and c.relname = w.name
left join pg_attribute a on a.attrelid = c.oid and a.attname = w.attribute and not a.attisdropped
where case when w.attribute is null then not has_table_privilege(c.oid, w.privilege)
           else coalesce(not has_column_privilege(c.oid, a.attnum, w.privilege), false) end
order by w.place

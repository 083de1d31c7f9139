-- What the current role is beside its rights: too much of it is a warning.
-- Locks nothing; reads the catalog.
select current_user::text as role,
       r.rolsuper as superuser,
       r.rolbypassrls as bypasses,
       coalesce(pg_has_role(c.relowner, 'usage'), false) as owner,
       coalesce(has_schema_privilege(n.oid, 'usage'), true) as enters,
       coalesce(has_table_privilege(c.oid, 'truncate') or has_table_privilege(c.oid, 'trigger'), false) as truncates,
       coalesce(pg_has_role('pg_read_all_stats', 'usage'), false) as sees_sessions
from pg_roles r
left join pg_namespace n on n.nspname = {schema_text}
left join pg_class c on c.relnamespace = n.oid and c.relname = {rows_text}
where r.rolname = current_user

-- Whether anything was ever migrated in this schema, and whether the current role may see what. Reads the catalog only.
select m.oid is not null as exists, coalesce(has_table_privilege(m.oid, 'select'), false) as readable
from (select to_regclass(format('%I.outboxd_migrations', {schema_text})) as oid) m

-- Whether the roles of outboxd are there and work in this schema.
-- Locks nothing; reads the catalog.
select count(*) = 3 and bool_and(has_schema_privilege(r.oid, {schema_text}, 'usage'))
   and bool_or(r.rolname = 'outboxd_relay' and has_table_privilege(r.oid, {lanes_text}, 'select'))
from pg_roles r where r.rolname in ('outboxd_writer', 'outboxd_relay', 'outboxd_operator')

-- What is to be known of the server and the database.
-- Locks nothing; reads the catalog and the statistics of sessions.
select pg_is_in_recovery() as standby,
       current_setting('transaction_read_only') = 'on' as read_only,
       extract(epoch from clock_timestamp())::double precision as clock,
       current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on' as autovacuum,
       current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on' as durable,
       current_setting('max_prepared_transactions')::int > 0
           and coalesce(nullif(current_setting('outboxd.wake', true), ''), 'off') <> 'on' as wake_silent,
       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint as connections_max,
       (select count(*) from pg_stat_activity a where a.backend_type = 'client backend') as connections,
       d.datconnlimit::bigint as database_max,
       (select count(*) from pg_stat_activity a where a.backend_type = 'client backend' and a.datname = d.datname) as database_connections,
       r.rolconnlimit::bigint as role_max,
       (select count(*) from pg_stat_activity a where a.backend_type = 'client backend' and a.usename = r.rolname) as role_connections,
       d.datname::text as database,
       r.rolname::text as role
from pg_database d, pg_roles r
where d.datname = current_database() and r.rolname = current_user

-- For how long the oldest open transaction of this database has been open, in seconds; 0: none is. It keeps dead rows from being
-- removed, and gaps open where it took a number. Sessions of other roles show their age to members of pg_read_all_stats
-- (pg_monitor) only; prepared transactions show it to everybody.
-- Locks nothing. A few rows. One clock.
select coalesce(date_part('epoch', clock_timestamp() - least(
    (select min(a.xact_start) from pg_stat_activity a
     where a.datname = current_database() and a.backend_type = 'client backend' and a.pid <> pg_backend_pid()),
    (select min(p.prepared) from pg_prepared_xacts p where p.database = current_database())
)), 0)::double precision

-- Sessions and prepared transactions that may keep vacuum, gaps or commit order waiting: those open for more than $1 seconds, and
-- those whose snapshot lags by more than $2 transactions.
-- Locks nothing; reads the statistics of sessions. Those of others are seen by members of pg_read_all_stats only.
select a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, '?') as who, coalesce(a.state, '?') as state,
       extract(epoch from clock_timestamp() - a.xact_start)::double precision as open_for,
       greatest(age(a.backend_xmin), age(a.backend_xid))::bigint as behind, null::text as gid
from pg_stat_activity a
where a.pid <> pg_backend_pid() and a.backend_type in ('client backend', 'walsender')
  and (a.datname = current_database() or a.backend_type = 'walsender' or age(a.backend_xmin) > $2)
  and (clock_timestamp() - a.xact_start > $1 * interval '1 second' or greatest(age(a.backend_xmin), age(a.backend_xid)) > $2)
union all
select null, p.owner::text, 'prepared', extract(epoch from clock_timestamp() - p.prepared)::double precision, age(p.transaction)::bigint, p.gid
from pg_prepared_xacts p
where p.database = current_database()
  and (clock_timestamp() - p.prepared > $1 * interval '1 second' or age(p.transaction) > $2)
order by 4 desc nulls last
limit 5

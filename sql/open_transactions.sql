-- Open transactions that have taken numbers from the sequence: what commit order and gaps wait for, longest first. The state
-- and age of prepared ones come from pg_prepared_xacts, which names no holder: all of this database are listed.
-- Locks nothing. A few rows. One clock.
-- $1 seconds they are open at least
select a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, '?') as who, coalesce(a.state, '?') as state,
  date_part('epoch', clock_timestamp() - a.xact_start) as open_for
from pg_stat_activity a
where a.xact_start <= clock_timestamp() - $1 * interval '1 second'
  and a.pid in (
    select l.pid from pg_locks l
    where l.locktype = 'relation' and l.granted
      and l.relation = {sequence}
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
  )
union all
select null, p.gid, 'prepared', date_part('epoch', clock_timestamp() - p.prepared)
from pg_prepared_xacts p
where p.database = current_database() and p.prepared <= clock_timestamp() - $1 * interval '1 second'
order by 4 desc
limit 20

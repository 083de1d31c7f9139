-- Whom the settling session of this instance waits for just now.
-- Locks nothing.
-- $1 application_name of this instance's sessions, up to their roles
select b.pid, coalesce(nullif(b.application_name, ''), b.usename::text, '?') as who, coalesce(b.state, 'state unknown') as state,
  date_part('epoch', clock_timestamp() - b.xact_start) as open_for
from pg_stat_activity a
  cross join unnest(pg_blocking_pids(a.pid)) w(pid)
  join pg_stat_activity b on b.pid = w.pid
where left(a.application_name, length($1)) = $1 and a.wait_event_type = 'Lock'
order by b.xact_start
limit 1

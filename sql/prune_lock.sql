-- Who holds the lock under which old rows are deleted, where this instance is the one that deletes. Anybody who may connect can take it.
-- Locks nothing.
-- $1 instance
select a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, '?') as who, coalesce(a.state, 'state unknown') as state,
  date_part('epoch', clock_timestamp() - coalesce(a.xact_start, a.state_change)) as open_for
from pg_locks k
  join pg_stat_activity a on a.pid = k.pid
where k.locktype = 'advisory' and k.granted and k.objsubid = 1 and k.pid <> pg_backend_pid()
  and k.database = (select d.oid from pg_database d where d.datname = current_database())
  and (k.classid::bigint << 32) | k.objid::bigint = hashtextextended({lock}, 816)
  and exists (select from {lanes} l where l.outbox = {table_text} and l.lane = 0 and l.owner = $1)
limit 1

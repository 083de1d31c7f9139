-- Whether somebody has locked the history of failed attempts, or waits to: who would delete from it waits then, before any time limit of its
-- own is set.
-- Locks nothing.
select exists (
  select from pg_locks k
  where k.locktype = 'relation' and k.pid is distinct from pg_backend_pid()
    and k.database = (select d.oid from pg_database d where d.datname = current_database())
    and k.relation = to_regclass({attempts_text})
    and k.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
) as locked

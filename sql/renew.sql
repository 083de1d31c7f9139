-- Registers this instance for another while. Answers whether its lanes must be taken anew (a new process, or the lease had
-- ended) and which topics are paused, and tells the others that it has come; no row: the name belongs to a live instance elsewhere.
-- Locks: its own row, so that nobody takes it for dead while this is under way; rows of the long dead, which it deletes. One
-- clock.
-- $1 instance, $2 session, $3 machine, $4 version, $5 lanes, $6 seconds
with before as (
  select i.session, i.expires_at from {instances} i where i.instance = $1
), forgotten as (
  delete from {instances} i where i.instance <> $1 and i.expires_at < now() - interval '1 day'
)
insert into {instances} as i (instance, session, machine, version, lanes, started_at, renewed_at, expires_at)
values ($1, $2, $3, $4, $5, now(), now(), now() + $6 * interval '1 second')
on conflict (instance) do update
set session = excluded.session, machine = excluded.machine, version = excluded.version, lanes = excluded.lanes,
  started_at = case when i.session = excluded.session then i.started_at else excluded.started_at end,
  renewed_at = excluded.renewed_at, expires_at = excluded.expires_at
where i.session = excluded.session or i.machine = excluded.machine or i.expires_at < now()
returning coalesce((select b.session <> $2 or b.expires_at < now() from before b), true) as anew,
  (select coalesce(array_agg(p.topic), '{}') from {paused} p) as paused,
  case when coalesce((select b.session <> $2 or b.expires_at < now() from before b), true)
    then pg_notify({channel}, 'outboxd instances') end

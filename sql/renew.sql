-- Registers this instance for another while. Answers whether its lanes must be taken anew (a new process, or the lease had
-- ended), which topics are paused and how many lanes there are, and tells the others that it has come; no row: the name belongs to another process that
-- lives. A registration is taken from nobody but who is dead: its lease has ended, or this process holds the very lock file that
-- one proved itself by (`proof` is the file's identity and the session it was written for). Versions before 0.3 wrote no proof:
-- $8 says that a lock file of theirs was found and nobody held it. $9 is a registration that was not renewed for as long as it was
-- made for, by the clock of whoever waits for it: the server's clock was set back.
-- Locks: its own row, so that nobody takes it for dead while this is under way; rows of the long dead, which it deletes. One
-- clock.
-- $1 instance, $2 session, $3 machine, $4 version, $5 lanes, $6 seconds, $7 identity of the lock file or null, $8 take over from
-- a version before 0.3 on this machine, $9 as peers.sql answers it, or null
with before as (
  select i.session, i.expires_at from {instances} i where i.outbox = {table_text} and i.instance = $1
), forgotten as (
  delete from {instances} i where i.outbox = {table_text} and i.instance <> $1 and i.expires_at < now() - interval '1 day'
)
insert into {instances} as i (outbox, instance, session, machine, version, lanes, proof, started_at, renewed_at, expires_at)
values ({table_text}, $1, $2, $3, $4, $5, $7::text || ' ' || $2::text, now(), now(), now() + $6 * interval '1 second')
on conflict on constraint outboxd_instances_pkey do update
set session = excluded.session, machine = excluded.machine, version = excluded.version, lanes = excluded.lanes,
  proof = excluded.proof,
  started_at = case when i.session = excluded.session then i.started_at else excluded.started_at end,
  renewed_at = excluded.renewed_at, expires_at = excluded.expires_at
where i.session = excluded.session or i.expires_at < now() or i.proof = $7 || ' ' || i.session::text
  or ($8 and i.machine = excluded.machine and coalesce(i.proof, '') not like '% ' || i.session::text)
  or i.session::text || ' ' || extract(epoch from i.renewed_at)::text = $9
returning coalesce((select b.session <> $2 or b.expires_at < now() from before b), true) as anew,
  (select coalesce(array_agg(p.topic), '{}') from {paused} p where p.outbox = {table_text}) as paused,
  (select count(*) from {lanes} l where l.outbox = {table_text} and l.lane < $5) as lanes_there,
  case when coalesce((select b.session <> $2 or b.expires_at < now() from before b), true)
    then pg_notify({channel}, 'outboxd instances') end

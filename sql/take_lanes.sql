-- Takes lanes that belong to nobody alive, raising their epoch: what an earlier owner writes no longer matches.
-- Locks: the lanes it takes, its own registration and those of the dead, so that none renews meanwhile (one that does is skipped).
-- Law: exclusive (the epoch read and the epoch raised are the same, or the lane went to someone else; nothing at all when
-- another process has taken the name), even.
-- $1 instance, $2 its own lanes too, $3 lanes of others at most, $4 session
with me as (
  select i.instance from {instances} i where i.outbox = {table_text} and i.instance = $1 and i.session = $4 for share
), dead as (
  select i.instance from {instances} i
  where i.outbox = {table_text} and i.expires_at < now() and i.instance <> $1
  for update skip locked
), free as (
  select l.lane, l.epoch from {lanes} l
  where l.outbox = {table_text} and l.owner is distinct from $1
    and (l.owner is null or l.owner in (select d.instance from dead d)
      or not exists (select from {instances} i where i.outbox = {table_text} and i.instance = l.owner))
  order by l.lane
  limit greatest($3, 0)
), taken as (
  select f.lane, f.epoch from free f
  union all
  select l.lane, l.epoch from {lanes} l where l.outbox = {table_text} and $2 and l.owner = $1
)
update {lanes} l
set owner = $1, epoch = l.epoch + 1
from taken t
where l.outbox = {table_text} and l.lane = t.lane and l.epoch = t.epoch and exists (select from me)

-- Gives lanes to whoever needs them, and says so.
-- Locks: those lanes. Laws: exclusive, fenced (only lanes whose epoch is still the one under which they were held).
-- $1 lanes, $2 epochs, $3 instance
with given as (
  update {lanes} l
  set owner = null
  from unnest($1::int[], $2::bigint[]) g(lane, epoch)
  where l.outbox = {table_text} and l.lane = g.lane and l.epoch = g.epoch and l.owner = $3
  returning l.lane
)
select pg_notify({channel}, 'outboxd instances') from (select count(*) from given) told(lanes) where told.lanes > 0

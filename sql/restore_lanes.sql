-- Puts back lanes that somebody deleted, belonging to nobody.
-- Locks: the rows it makes.
-- Law: exclusive. A fence compares epochs, so none may come again. The new ones are the clock's microseconds, or above any that is
-- left or was held by this process: a take-over adds one, and takes longer than a microsecond, so no deleted lane had come so far.
-- $1 lanes, $2 the highest epoch this process has held
insert into {lanes} (outbox, lane, epoch)
select {table_text}, g.lane, greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint, $2 + 1,
  (select max(l.epoch) + 1 from {lanes} l where l.outbox = {table_text}))
from generate_series(0, $1 - 1) as g (lane)
on conflict do nothing

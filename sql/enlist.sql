-- Enlists rows of a table that is not ours: those that are pending there, past a place, and not here yet; in the order they were
-- inserted in, as far as that can be known. Sent as one message, without parameters: every look is planned for what is there now.
-- Two statements, the lock first. Taken inside the second it would leave that with a snapshot from before the lock was free: what
-- another instance has enlisted, sent and marked meanwhile would be enlisted again.
-- A scalar sub-select tells what is here already: its condition is always one of the index. An anti-join is planned as a loop over
-- all rows while the statistics say that there are none. The order begins with the columns of the index that serves (see
-- schema/foreign): `is null` is no constant to the planner, and everything that is pending would be sorted for each page.
-- What is made of a row is made behind the limit: a row of which it cannot be made is found by smaller and smaller pages.
-- Locks: an advisory lock of this outbox, tried only, and the rows it makes; of their table nothing. Law: no gaps, ordered per key.
begin;
select set_config('outboxd.turn', case when pg_try_advisory_xact_lock(hashtextextended({lock}, 817)) then 'mine' else 'no' end, true),
  set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
  set_config('enable_seqscan', {t.seqscan}, true), set_config('jit', 'off', true);
with page as materialized (
  select t.{t.id} as id, {t.topic} as topic, {t.key} as key, {t.attempt} as attempt, {t.max_attempts} as max_attempts,
    {t.priority} as priority, {t.available_at} as available_at, {t.inserted_at} as inserted_at, {t.place} as place
  from (
    select t.* from {t.table} t
    where current_setting('outboxd.turn') = 'mine' and {t.pending} and {since}
      and (select r.{c.seq} from {messages} r where r.{c.id} = t.{t.id} {unless_failed}) is null
    order by {t.order}
    limit {most}
  ) t
), fresh as (
  insert into {messages} as r ({c.id}, {c.topic}, {c.key}, {c.attempt}, {c.max_attempts}, {c.priority}, {c.available_at}, {c.inserted_at})
  select p.id, p.topic, p.key, p.attempt, p.max_attempts, p.priority, p.available_at, p.inserted_at
  from page p
  {honour}
  returning r.{c.seq}
)
select current_setting('outboxd.turn') = 'mine' as mine, (select count(*) from page) as rows, (select count(*) from fresh) as fresh,
  (select min(p.place) from page p) as first, (select max(p.place) from page p) as last,
  case when current_setting('outboxd.turn') = 'mine' then {newest} end as newest,
  (extract(epoch from now()) * 1000000)::bigint as now,
  (select pg_notify({channel}, '')::text from (select from fresh limit 1) f) as told;
commit

-- As fail.sql, without the history: where that cannot be written, or a rule on the table forbids to write two in one.
-- Locks: the rows it writes and, for share, their lanes, so that no take-over comes between; waits for each $13 at most.
-- Index: primary key. Laws: fenced (owner, epoch, attempt), identity, one clock, idempotent.
-- $1 to $13 as there
update {messages} m
set {c.attempt} = least(coalesce(m.{c.attempt}, 1), 2147483646) + 1, {c.last_error} = i.error, {c.updated_at} = now(),
  {c.available_at} = case when i.retry_ms is null then m.{c.available_at}
    else now() + i.retry_ms * interval '1 millisecond' end,
  {c.failed_at} = case when i.retry_ms is null then now() end
from unnest($1::bigint[], $2::text[], $3::int[], $4::bigint[], $5::int[], $6::bigint[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $12::int[]) i(seq, id, lane, epoch, attempt, retry_ms, class, code, error, latency_ms, replay)
  join (select l.lane, l.epoch from {lanes} l where l.outbox = {table_text} and l.owner = $11 and l.lane = any($3::int[]) for share) h
    on h.lane = i.lane and h.epoch = i.epoch
where {same_text} and coalesce(m.{c.attempt}, 1) = i.attempt and {pending}
  and (select set_config('lock_timeout', $13::text, true)) is not null

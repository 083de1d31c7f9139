-- As foreign_fail.sql, without the history: where that cannot be written.
-- Locks: the rows it writes and, for share, their lanes, so that no take-over comes between; waits for each $13 at most.
-- Indexes: ours, primary key; theirs, the id. Laws: fenced (owner, epoch, attempt), identity, one clock, idempotent.
-- $1 to $13 as there
with input as (
  select * from unnest($1::bigint[], $2::text[], $3::int[], $4::bigint[], $5::int[], $6::bigint[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $12::int[]) i(seq, id, lane, epoch, attempt, retry_ms, class, code, error, latency_ms, replay)
), held as (
  select l.lane, l.epoch from {lanes} l
  where l.outbox = {table_text} and l.owner = $11 and l.lane in (select i.lane from input i)
  for share
), written as (
  update {messages} m
  set {c.attempt} = least(coalesce(m.{c.attempt}, 1), 2147483646) + 1, {c.last_error} = i.error, {c.updated_at} = now(),
    {c.available_at} = case when i.retry_ms is null then m.{c.available_at}
      else now() + i.retry_ms * interval '1 millisecond' end,
    {c.failed_at} = case when i.retry_ms is null then now() end
  from input i join held h on h.lane = i.lane and h.epoch = i.epoch
  where {same_text} and coalesce(m.{c.attempt}, 1) = i.attempt and {pending}
    and (select set_config('lock_timeout', $13::text, true)) is not null
  returning m.{c.seq} as seq, m.{c.id} as outboxd_id, m.{c.attempt} as outboxd_attempt, m.{c.last_error} as outboxd_error,
    m.{c.available_at} as outboxd_retry_at, m.{c.failed_at} as outboxd_failed_at
){theirs_retrying}{theirs_failed}
select from written

-- Records failed attempts: the row's next attempt and its time, or its end; and one line of history each. Answers one row for
-- each row written.
-- Locks: the rows it writes and, for share, their lanes, so that no take-over comes between; waits for each $13 at most.
-- Index: primary key. Laws: fenced (owner, epoch, attempt), identity, one clock, idempotent.
-- $1 seqs, $2 message ids, $3 lanes, $4 epochs, $5 attempts, $6 milliseconds until the next or null, $7 classes, $8 codes,
-- $9 errors, $10 latencies in milliseconds, $11 instance, $12 replays, $13 lock_timeout
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
  returning m.{c.seq} as seq
), history as (
  insert into {attempts} (outbox, seq, message_id, attempt, instance, class, code, error, latency_ms)
  select {table_text}, i.seq, coalesce(i.id, ''), i.attempt, $11, i.class, i.code, i.error, i.latency_ms
  from input i join written w on w.seq = i.seq
)
select from written

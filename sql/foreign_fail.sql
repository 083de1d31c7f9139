-- As fail.sql, of a table that is not ours. Written here is what was written there: a row that a trigger or rule of theirs leaves as it
-- was, or that is still pending there after its last attempt, stays as it is here too, and is reported. Otherwise it would be
-- taken for one whose failure a person has taken back, and sent again and again.
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
), chosen as materialized (
  select m.{c.seq} as outboxd_seq, m.{c.id} as outboxd_id, i.attempt as outboxd_tried,
    least(i.attempt, 2147483646) + 1 as outboxd_attempt, i.error as outboxd_error, i.retry_ms is null as outboxd_ends,
    case when i.retry_ms is null then m.{c.available_at} else now() + i.retry_ms * interval '1 millisecond' end as outboxd_retry_at
  from input i join held h on h.lane = i.lane and h.epoch = i.epoch
    join {messages} m on {same_text}
  where coalesce(m.{c.attempt}, 1) = i.attempt and {pending}
    and (select set_config('lock_timeout', $13::text, true)) is not null
), retrying as (
  {theirs_retrying}
), ended as (
  {theirs_failed}
), written as (
  update {messages} m
  set {c.attempt} = w.outboxd_attempt, {c.last_error} = w.outboxd_error, {c.updated_at} = now(),
    {c.available_at} = w.outboxd_retry_at, {c.failed_at} = case when w.outboxd_ends then now() end
  from chosen w
  where m.{c.seq} = w.outboxd_seq and coalesce(m.{c.attempt}, 1) = w.outboxd_tried and {pending}
    and w.outboxd_seq in (select r.outboxd_seq from retrying r
      union all select e.outboxd_seq from ended e where e.outboxd_still is not true)
  returning m.{c.seq} as seq
), history as (
  insert into {attempts} (outbox, seq, message_id, attempt, instance, class, code, error, latency_ms)
  select {table_text}, i.seq, coalesce(i.id, ''), i.attempt, $11, i.class, i.code, i.error, i.latency_ms
  from input i join written w on w.seq = i.seq
)
select from written

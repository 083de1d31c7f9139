-- As failed_retry.sql, of a table that is not ours: there first, and here what is pending there then, with the topic and key it has
-- there: somebody may have corrected it.
-- Locks the rows, briefly: a step is 1,000 rows at most. Indexes: ours, primary key; theirs, the id.
-- Law: Idempotent. A row no longer failed, or another message under its number, is left alone and not counted.
with chosen as materialized (
    select m.{c.seq} as outboxd_seq, m.{c.id} as outboxd_id
    from unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay) join {messages} m on {same_text}
    where m.{c.failed_at} is not null
), retried as (
    {theirs_retried}
), changed as (
    update {messages} m
    set {c.failed_at} = null, {c.attempt} = 1, {c.available_at} = now(), {c.updated_at} = now(),
      {c.topic} = r.outboxd_topic, {c.key} = r.outboxd_key
    from retried r
    where m.{c.seq} = r.outboxd_seq and r.outboxd_still and m.{c.failed_at} is not null
    returning m.{c.seq}
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $2::text, $3::uuid, 'retry', $4::text::jsonb, count(*) from changed having count(*) > 0
)
select count(*), pg_notify({channel}, '')::text from changed

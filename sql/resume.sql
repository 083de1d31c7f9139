-- Resumes topics ($1; null: all), records who ($2) did by which command ($3), and wakes the instances. Answers those that
-- were paused.
-- Locks: their rows. Primary key.
-- Law: Idempotent.
with changed as (
    delete from {paused} p
    where p.outbox = {table_text} and ($1::text[] is null or p.topic = any ($1))
    returning p.topic
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $2::text, $3::uuid, 'resume', json_build_object('topics', array_agg(topic))::jsonb, count(*) from changed
    having count(*) > 0
)
select coalesce(array_agg(topic order by topic), '{}'), pg_notify({channel}, 'outboxd instances')::text from changed

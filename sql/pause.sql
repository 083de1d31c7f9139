-- Pauses topics ($1), records who ($2) did by which command ($3), and wakes the instances. Answers those that were not
-- paused before.
-- Locks: their rows. Primary key.
-- Law: Idempotent.
with changed as (
    insert into {paused} (outbox, topic, who)
    select distinct {table_text}, asked.topic, $2::text from unnest($1::text[]) as asked (topic)
    on conflict do nothing
    returning topic
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $2, $3::uuid, 'pause', json_build_object('topics', array_agg(topic))::jsonb, count(*) from changed having count(*) > 0
)
select coalesce(array_agg(topic order by topic), '{}'), pg_notify({channel}, 'outboxd instances')::text from changed

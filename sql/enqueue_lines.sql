-- Many messages by hand, in this order, and who ($11) did it by which command ($12). A payload comes as bytes and becomes what
-- the column holds; $9 and $10 are two ways to say when.
-- Locks nothing. One transaction: all of them or none.
-- $1 topics, $2 keys, $3 payloads, $4 headers, $5 message ids (null: a new one), $6 priorities, $7 attempts at most or nulls,
-- $8 times replayed
with inserted as (
    insert into {messages} ({c.topic}, {c.key}, {c.payload}, {c.headers}, {c.id}, {c.priority}, {c.max_attempts}, {c.replay},
        {c.available_at})
    select i.topic, i.key, {payload_value}, i.headers::jsonb, coalesce(i.id::uuid, gen_random_uuid()), i.priority, i.max_attempts,
           i.replay, coalesce($9::timestamptz, now() + make_interval(secs => $10::double precision), now())
    from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::int[], $7::int[], $8::int[])
         with ordinality as i (topic, key, payload, headers, id, priority, max_attempts, replay, place)
    order by i.place
    returning 1
), audited as (
    insert into {audit} (outbox, who, command, action, count)
    select {table_text}, $11::text, $12::uuid, 'enqueue', count(*) from inserted
)
select count(*) from inserted

-- One message by hand, and who ($7) did it. The payload comes as bytes and becomes what the column holds; $5 and $6 are two ways
-- to say when.
-- Locks nothing.
with inserted as (
    insert into {messages} ({c.topic}, {c.key}, {c.payload}, {c.headers}, {c.available_at})
    values ($1::text, $2::text, {payload_value}, $4::text::jsonb,
            coalesce($5::timestamptz, now() + make_interval(secs => $6::double precision), now()))
    returning {c.id}::text as id
), audited as (
    insert into {audit} (outbox, who, action, filter, count)
    select {table_text}, $7::text, 'enqueue', jsonb_build_object('topic', $1::text, 'ids', jsonb_build_array(i.id)), 1 from inserted i
)
select id from inserted

-- One message by hand. The payload comes as bytes and becomes what the column holds; $5 and $6 are two ways to say when.
-- Locks nothing.
insert into {messages} ({c.topic}, {c.key}, {c.payload}, {c.headers}, {c.available_at})
values ($1::text, $2::text, {payload_value}, $4::text::jsonb,
        coalesce($5::timestamptz, now() + make_interval(secs => $6::double precision), now()))
returning {c.id}::text

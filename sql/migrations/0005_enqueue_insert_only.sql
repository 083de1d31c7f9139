-- `outbox_enqueue` for a role that may insert and nothing else: `insert ... returning` asks for the right to read what it
-- returns, so the id is chosen first.
--
-- Locks: none on the outbox; calls under way finish with the function they began with.

create or replace function {enqueue}(
    topic        text,
    payload      {messages}.{c.payload}%type,
    key          text default null,
    headers      jsonb default '{}',
    available_at timestamptz default null,
    priority     integer default 0,
    max_attempts integer default null,
    id           uuid default null
) returns uuid
language sql volatile
as $$
    with chosen as materialized (
        select coalesce($8, pg_catalog.gen_random_uuid()) as id
    ), inserted as (
        insert into {messages} ({c.topic}, {c.payload}, {c.key}, {c.headers}, {c.available_at}, {c.priority}, {c.max_attempts}, {c.id})
        select $1, $2, $3, coalesce($4, '{}'), coalesce($5, pg_catalog.now()), coalesce($6, 0)::smallint, $7, chosen.id
        from chosen
    )
    select chosen.id from chosen
$$;

-- The application's SQL helper, and the trigger that wakes the relay.
--
-- Locks: CREATE TRIGGER takes SHARE ROW EXCLUSIVE on the outbox for the rest of this transaction: inserts wait for a few
-- milliseconds, and `lock_timeout` gives up rather than queue in front of them behind a long transaction.
-- Law: Hints. A wake may be missed or spurious; polling is the truth.

-- Inserts one message and returns its id. The payload's type is the column's. NULL means the default everywhere but `key`,
-- where it means: no order.
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
    insert into {messages} ({c.topic}, {c.payload}, {c.key}, {c.headers}, {c.available_at}, {c.priority}, {c.max_attempts}, {c.id})
    values ($1, $2, $3, coalesce($4, '{}'), coalesce($5, pg_catalog.now()), coalesce($6, 0)::smallint, $7,
            coalesce($8, pg_catalog.gen_random_uuid()))
    returning {c.id}
$$;

-- At most one open transaction notifies: an unconditional NOTIFY makes commits serial, because the server holds one lock
-- per cluster from the notify to the end of the WAL flush. A transaction that skipped its NOTIFY is found by the burst of
-- polls after a wake, or by the next poll.
-- A transaction that has notified cannot be prepared for two-phase commit. So where prepared transactions are enabled the
-- trigger is silent, unless the session, role or database says `set outboxd.wake = on`; `off` silences it anywhere.
-- Names are qualified instead of `set search_path`, which would cost as much as the rest.
create or replace function {wake}() returns trigger
language plpgsql
as $$
begin
    if coalesce(
           nullif(pg_catalog.current_setting('outboxd.wake', true), ''),
           case pg_catalog.current_setting('max_prepared_transactions') when '0' then 'on' else 'off' end
       ) = 'on'
       and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({channel}, 815))
    then
        perform pg_catalog.pg_notify({channel}, '');
    end if;
    return null;
end
$$;

do $$
begin
    if not exists (select from pg_trigger where tgrelid = {messages_text}::regclass and tgname = 'outboxd_wake') then
        create trigger outboxd_wake after insert on {messages} for each statement execute function {wake}();
    end if;
end
$$;

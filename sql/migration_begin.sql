-- What every migration run starts with: one at a time, and the table that remembers what was applied.
--
-- Locks: an advisory lock to the end of the transaction, so that concurrent runs come one after the other. It is taken
-- before `lock_timeout` is set: waiting for another run is fine, making the application's inserts wait is not.
-- Law: every migration file can be run again on its own result. `migrate --print` relies on it.
select pg_advisory_xact_lock(hashtextextended('outboxd migrate', 815));
set local lock_timeout = '500ms';
set local client_min_messages = warning;

do $$
begin
    -- Not `create schema if not exists`, which asks for the right to create one even where it exists.
    if to_regnamespace(quote_ident({schema_text})) is null then
        create schema {schema};
    end if;
    if to_regclass(format('%I.outboxd_migrations', {schema_text})) is null then
        create table {migrations} (
            version    integer primary key,
            name       text not null,
            checksum   text not null,
            outbox     text not null,
            applied_at timestamptz not null default now()
        );
    end if;
    -- The service tables are the schema's: a second outbox needs a schema of its own.
    perform from {migrations} where outbox <> {table_text};
    if found then
        raise exception 'schema % already serves another outbox, %: put outbox.table % into a schema of its own',
            {schema_text}, (select outbox from {migrations} limit 1), {table_text}
            using errcode = 'object_not_in_prerequisite_state';
    end if;
end
$$;

-- What every migration run starts with: one at a time, and the table that remembers what was applied.
--
-- Locks: an advisory lock to the end of the transaction, so that concurrent runs come one after the other. It is taken
-- before `lock_timeout` is set: waiting for another run is fine, making the application's inserts wait is not. When a second
-- outbox is made, the small tables, briefly.
-- Law: every migration file can be run again on its own result. `migrate --print` relies on it.
select pg_advisory_xact_lock(hashtextextended('outboxd migrate', 815));
set local lock_timeout = '500ms';
set local client_min_messages = warning;

do $$
declare
    key record;
    old record;
begin
    -- Not `create schema if not exists`, which asks for the right to create one even where it exists.
    if to_regnamespace(quote_ident({schema_text})) is null then
        create schema {schema};
    end if;
    if (select relkind from pg_class where oid = to_regclass({messages_text})) not in ('r', 'p', 'f', 'v') then
        raise exception 'outbox.table: % is there already and is no table: call the outbox something else', {messages_text}
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    -- A helper that outlived its table would stand beside the new one if the payload has another type now.
    if to_regclass({messages_text}) is null then
        for old in
            select p.oid::regprocedure as helper from pg_proc p
            where p.oid in (select f.oid from pg_proc f join pg_namespace n on n.oid = f.pronamespace and n.nspname = {schema_text}
                            where f.proname in ({name_text.enqueue}, 'outbox_enqueue') and f.pronargs = 8)
              and strpos(p.prosrc, 'into ' || {messages_text} || ' ') > 0 and p.proargtypes[1] <> '{payload_type}'::regtype
        loop
            execute format('drop function %s', old.helper);
        end loop;
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

    -- Keys are as versions before 0.3 made and know them while there is one outbox. A second one needs longer ones, and then
    -- those versions no longer work: none may be at work.
    select c.conname as name, cardinality(c.conkey) = 1 as narrow into key
    from pg_constraint c where c.conrelid = {migrations_text}::regclass and c.contype = 'p';
    if key.narrow and exists (select from {migrations} where outbox <> {table_text}) then
        if to_regclass({instances_text}) is not null then
            lock table {instances} in access exclusive mode;
            select i.instance, coalesce(i.version, '?') as version into old
            from {instances} i
            where i.expires_at > now() and coalesce(i.version, '') not like {alike}
            limit 1;
            if found then
                raise exception 'schema % serves outbox % already, and instance % of outboxd % is at work, which knows one outbox a schema:'
                    ' stop it, or upgrade it, then migrate again', {schema_text},
                    (select min(outbox) from {migrations} where outbox <> {table_text}), old.instance, old.version
                    using errcode = 'object_not_in_prerequisite_state';
            end if;
        end if;
        execute format('alter table %s drop constraint %I, add constraint outboxd_migrations_pkey primary key (outbox, version)',
            {migrations_text}, key.name);
    end if;

    -- Versions before 0.3 cut the names of long tables' indexes.
    for old in
        select * from (values ({cut_text.pending}, {name_text.pending}), ({cut_text.waiting}, {name_text.waiting}),
            ({cut_text.failed}, {name_text.failed}), ({cut_text.priority}, {name_text.priority})) as list (was, shall)
        where was <> shall and to_regclass(format('%I.%I', {schema_text}, shall)) is null
    loop
        if exists (select from pg_index where indexrelid = to_regclass(format('%I.%I', {schema_text}, old.was))
                     and indrelid = to_regclass({messages_text})) then
            execute format('alter index %I.%I rename to %I', {schema_text}, old.was, old.shall);
        end if;
    end loop;
end
$$;

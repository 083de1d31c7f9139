-- Several outboxes in one schema: rows of the service tables say whose they are. And what an instance knows of rows that are
-- stuck (a trigger raises, a lock is held), so that `status` shows them from everywhere; and by what it proves itself to its
-- successor.
--
-- Locks: the small service tables, briefly; nothing of the outbox. Where an outbox that shared the lanes of another is given its
-- own, its wake trigger is made anew: SHARE ROW EXCLUSIVE, as in 0003.
-- Law: daemons of versions before 0.3, which do not know the column, work on while there is one outbox: its rows are the
-- default, and the keys stay as they are until a second one is made.

alter table {instances} add column if not exists stuck jsonb;
alter table {instances} add column if not exists proof text;

do $$
declare
    -- What is there already belongs to the outbox that was made first.
    first text := (select m.outbox from {migrations} m order by m.version, m.outbox = {table_text}, m.applied_at limit 1);
    several boolean := exists (select from {migrations} where outbox <> {table_text});
    service record;
    key record;
begin
    for service in
        select t.name, t.key, format('%I.%I', {schema_text}, t.name)::regclass as oid, t.name || '_pkey' as key_name
        from (values ('outboxd_lanes', 'lane'), ('outboxd_instances', 'instance'), ('outboxd_paused', 'topic'),
                     ('outboxd_attempts', null), ('outboxd_audit', null)) as t (name, key)
    loop
        if not exists (select from pg_attribute where attrelid = service.oid and attname = 'outbox' and not attisdropped) then
            execute format('alter table %s add column outbox text not null default %L', service.oid, first);
        end if;
        continue when service.key is null;
        select c.conname as name, cardinality(c.conkey) = 1 as narrow into key
        from pg_constraint c where c.conrelid = service.oid and c.contype = 'p';
        if several and key.narrow then
            execute format('alter table %s drop constraint %I, add constraint %I primary key (outbox, %I)',
                service.oid, key.name, service.key_name, service.key);
        elsif key.name <> service.key_name then
            execute format('alter table %s rename constraint %I to %I', service.oid, key.name, service.key_name);
        end if;
    end loop;

    -- Lanes of its own for an outbox that is not the first; and its history, where it shared the other's before.
    if not exists (select from {lanes} where outbox = {table_text}) then
        insert into {lanes} (outbox, lane) select {table_text}, lane from generate_series(0, {lanes_count} - 1) as lane;
        update {attempts} a set outbox = {table_text}
        where exists (select from {messages} m where m.{c.seq} = a.seq and m.{c.id}::text = a.message_id);
    end if;
end
$$;

-- Every outbox has functions of its own, called after its table; the first one of the schema those of versions before 0.3, too.
-- A function that is there is replaced only for whom it is: another outbox's would send messages to the wrong table.
do $body$
declare
    is_first boolean;
    wanted text;
    called oid;
begin
    select pg_get_expr(d.adbin, d.adrelid) into wanted
    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.adrelid = {lanes_text}::regclass and a.attname = 'outbox';
    execute format('select %s = %L', wanted, {table_text}) into is_first;

    foreach wanted in array case when is_first then array[{enqueue_text}, {first_enqueue_text}] else array[{enqueue_text}] end loop
        execute replace($enqueue$
create or replace function the_function(
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
$$
        $enqueue$, 'the_function', wanted);
    end loop;

    -- As in 0003. The channel's name is another one for some tables: cut names are told apart now.
    foreach wanted in array case
        when is_first and to_regprocedure({first_wake_text} || '()') is not null then array[{wake_text}, {first_wake_text}]
        else array[{wake_text}] end
    loop
        execute replace($wake$
create or replace function the_function() returns trigger
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
$$
        $wake$, 'the_function', wanted);
    end loop;

    -- One that was made by hand after another outbox's wakes the daemons of that one.
    select t.tgfoid into called
    from pg_trigger t where t.tgrelid = {messages_text}::regclass and t.tgname = 'outboxd_wake';
    if not is_first and called is distinct from to_regprocedure({wake_text} || '()')::oid then
        drop trigger if exists outboxd_wake on {messages};
        create trigger outboxd_wake after insert on {messages} for each statement execute function {wake}();
    end if;
end
$body$;

-- Roles of least privilege for this outbox: groups without a login. Made for the configuration it was printed with; run it
-- again after a change of [outbox], [retention] or http.token_file, and after an upgrade. It can be run any number of times.
--
-- Run it in the outbox's database, after outboxd migrate, as the tables' owner; making the roles needs CREATEROLE. Then
--   grant outboxd_writer   to ...;   -- the application's role
--   grant outboxd_relay    to ...;   -- the role in database.url of outboxd run
--   grant outboxd_operator to ...;   -- people: status, failed, replay, pause, prune, enqueue
--
-- Grants of your own to these three on the tables of the outbox are taken back: give those to your login roles. A writer
-- cannot read, so it chooses the id itself or calls outbox_enqueue; `insert ... returning "id"` asks for a
-- `grant select (id)` of your own.
--
-- Locks: none that a query or an insert waits for.

do $$
declare
    wanted text;
begin
    foreach wanted in array array['outboxd_writer', 'outboxd_relay', 'outboxd_operator'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception when duplicate_object or unique_violation then
                null; -- made by somebody else just now
            end;
        end if;
    end loop;
end
$$;

do $$
begin
    -- What other outboxes of the schema need of the tables they share stays.
    if not exists (select from {migrations} where outbox <> {table_text}) then
        revoke all on {lanes}, {instances}, {attempts}, {audit}, {paused}, {questions}, {migrations}
            from outboxd_writer, outboxd_relay, outboxd_operator;
    end if;
end
$$;
grant usage on schema {schema} to outboxd_writer, outboxd_relay, outboxd_operator;

-- The daemon.
grant select on {lanes}, {instances}, {attempts}, {paused}, {migrations} to outboxd_relay;
-- Lanes that somebody deleted it puts back.
grant insert (outbox, lane, epoch), update (owner, epoch) on {lanes} to outboxd_relay;
grant insert, update, delete on {instances} to outboxd_relay;
grant insert on {attempts} to outboxd_relay;
grant select, insert (outbox, instance, seq), update (answer), delete on {questions} to outboxd_relay;

-- People. The audit takes their word for who they are, but writes down the role itself.
grant select on {lanes}, {instances}, {attempts}, {audit}, {paused}, {migrations} to outboxd_operator;
grant delete on {attempts} to outboxd_operator;
grant insert (outbox, topic, who), delete on {paused} to outboxd_operator;
grant select, insert (outbox, instance, seq) on {questions} to outboxd_operator;
grant insert (outbox, who, command, action, filter, count, detail) on {audit} to outboxd_operator;

do $$
declare
    wanted text;
begin
    -- Whose transaction is open, and for how long: for the metric, and to name whoever keeps rows or vacuum waiting. It also
    -- shows the statements of others; to do without, revoke it after this.
    foreach wanted in array array['outboxd_relay', 'outboxd_operator'] loop
        if not pg_has_role(wanted, 'pg_read_all_stats', 'member') then
            begin
                execute format('grant pg_read_all_stats to %I', wanted);
            exception
                when insufficient_privilege then
                    raise notice 'pg_read_all_stats was not granted to %: whose transactions are open stays unknown', wanted;
                when unique_violation then
                    null; -- granted by somebody else just now
            end;
        end if;
    end loop;
end
$$;

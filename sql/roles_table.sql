-- The outbox's table. migrate grants this anew where it makes a table again.
revoke all on {messages} from outboxd_writer, outboxd_relay, outboxd_operator;

-- The application inserts messages. What becomes of them is not its to say.
grant insert ({c.id}, {c.topic}, {c.key}, {c.payload}, {c.headers}, {c.priority}, {c.available_at}, {c.max_attempts})
    on {messages} to outboxd_writer;
grant execute on function {enqueue} to outboxd_writer, outboxd_operator;

-- The daemon reads messages and writes how they stand.
grant select on {messages} to outboxd_relay, outboxd_operator;
grant update ({c.attempt}, {c.last_error}, {c.available_at}, {c.relayed_at}, {c.failed_at}, {c.updated_at})
    on {messages} to outboxd_relay;

-- People look, retry, discard, replay, prune and enqueue.
grant insert ({c.id}, {c.topic}, {c.key}, {c.payload}, {c.headers}, {c.priority}, {c.available_at}, {c.max_attempts}, {c.replay}),
    update ({c.attempt}, {c.last_error}, {c.available_at}, {c.relayed_at}, {c.failed_at}, {c.replay}, {c.updated_at}), delete
    on {messages} to outboxd_operator;

do $$
declare
    numbers text := ({sequence})::regclass::text;
    wanted text;
begin
    -- The first outbox of the schema has the short name too.
    if exists (select from pg_proc where oid = to_regproc({first_enqueue_text}) and strpos(prosrc, 'into ' || {messages_text} || ' ') > 0) then
        grant execute on function {first_enqueue} to outboxd_writer, outboxd_operator;
    end if;
    if numbers is not null then
        -- The last number taken, which is where the cursor starts.
        execute format('grant select on sequence %s to outboxd_relay', numbers);
        if exists (select from pg_attribute where attrelid = {messages_text}::regclass and attname = {seq_text} and attidentity = '') then
            execute format('grant usage on sequence %s to outboxd_writer, outboxd_operator', numbers);
        end if;
    end if;
    -- Where row-level security is on, a row that is not seen is a row that is not sent. Writers are the application's business.
    if (select relrowsecurity from pg_class where oid = {messages_text}::regclass) then
        foreach wanted in array array['outboxd_relay', 'outboxd_operator'] loop
            if not exists (select from pg_policy where polrelid = {messages_text}::regclass and polname = wanted) then
                execute format('create policy %I on %s to %I using (true) with check (true)', wanted, {messages_text}, wanted);
            end if;
        end loop;
    end if;
end
$$;

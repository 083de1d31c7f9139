-- The table, which is not outboxd's own, and the one where its rows are enlisted. What the application may do is its owner's business.
revoke all on {messages} from outboxd_writer, outboxd_relay, outboxd_operator;

-- The daemon enlists rows, and writes how they stand: here and there.
grant select, insert, update, delete on {messages} to outboxd_relay;
grant select, update on {t.table} to outboxd_relay;

-- People look, retry and discard.
grant select, update, delete on {messages} to outboxd_operator;
grant select, update, delete on {t.table} to outboxd_operator;

do $$
begin
    -- The last number taken, which is where the cursor starts.
    execute format('grant select on sequence %s to outboxd_relay', ({sequence})::regclass::text);
end
$$;

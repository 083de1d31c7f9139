-- Because of [retention] or http.token_file: it deletes the history of deleted messages, and writes down what people asked
-- it to do.
grant delete on {attempts} to outboxd_relay;
grant insert (outbox, who, command, action, filter, count, detail) on {audit} to outboxd_relay;

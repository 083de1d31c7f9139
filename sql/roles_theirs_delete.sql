-- Because of outbox.on_relayed = "delete" or http.token_file: the daemon deletes messages.
grant delete on {t.table} to outboxd_relay;

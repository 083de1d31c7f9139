-- Because of outbox.on_relayed = "delete", [retention] or http.token_file: the daemon deletes messages.
grant delete on {messages} to outboxd_relay;

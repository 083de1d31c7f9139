-- Deletes the `chosen` messages from their table, where on_relayed = "delete".
delete from {t.table} t using chosen where t.{t.id} = chosen.outboxd_id returning chosen.outboxd_seq, false as outboxd_still

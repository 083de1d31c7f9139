-- Marks the `chosen` messages in their table, where on_relayed = "mark".
update {t.table} t set {t.relayed} from chosen where t.{t.id} = chosen.outboxd_id returning chosen.outboxd_seq

-- Marks the `chosen` messages in their table, where on_relayed = "mark". `still`: it is pending there all the same.
update {t.table} t set {t.relayed} from chosen where t.{t.id} = chosen.outboxd_id
returning chosen.outboxd_seq, ({t.pending}) as outboxd_still

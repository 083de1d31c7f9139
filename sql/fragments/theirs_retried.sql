-- Failed messages that somebody retries, in their table: where it says that they failed it has to say that they did not.
update {t.table} t set {t.retried} from chosen w where t.{t.id} = w.outboxd_id
returning w.outboxd_seq, ({t.pending}) as outboxd_still, {t.topic} as outboxd_topic, {t.key} as outboxd_key

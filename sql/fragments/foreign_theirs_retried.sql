-- Failed messages that somebody retries, in their table.
, theirs as (
    update {t.table} t set {t.retried} from changed w where t.{t.id} = w.outboxd_id
)

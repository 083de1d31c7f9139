-- Of a failed attempt that another follows, what their table can say.
, theirs_retrying as (
  update {t.table} t set {t.retrying} from written w where t.{t.id} = w.outboxd_id and w.outboxd_failed_at is null
)

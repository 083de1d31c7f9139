-- Of a failed attempt that was the last, what their table can say.
, theirs_failed as (
  update {t.table} t set {t.failed} from written w where t.{t.id} = w.outboxd_id and w.outboxd_failed_at is not null
)

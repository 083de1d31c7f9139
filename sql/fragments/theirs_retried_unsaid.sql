-- Their table cannot say that a message failed: it is pending there, or gone.
select w.outboxd_seq, x.outboxd_still, x.outboxd_topic, x.outboxd_key
from chosen w cross join lateral (
  select ({t.pending}) as outboxd_still, {t.topic} as outboxd_topic, {t.key} as outboxd_key
  from {t.table} t where t.{t.id} = w.outboxd_id offset 0) x

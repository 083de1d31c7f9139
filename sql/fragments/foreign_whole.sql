-- The same, of a table that is not ours: contents are read from theirs, by their id.
(select r.{c.seq}, r.{c.id}, r.{c.topic}, r.{c.key}, x.payload, x.headers, r.{c.attempt}, r.{c.max_attempts}, r.{c.priority},
r.{c.available_at}, r.{c.replay}, r.{c.relayed_at}, r.{c.failed_at}, r.{c.last_error}, r.{c.inserted_at}, r.{c.updated_at}
from {messages} r
left join lateral (select {t.payload} as payload, {t.headers} as headers from {t.table} t where t.{t.id} = r.{c.id} offset 0) x on true)

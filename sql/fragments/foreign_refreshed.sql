-- Somebody may have corrected it in their table.
, {c.topic} = (select {t.topic} from {t.table} t where t.{t.id} = m.{c.id}), {c.key} = (select {t.key} from {t.table} t where t.{t.id} = m.{c.id})

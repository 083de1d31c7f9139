-- Of a failed attempt that another follows, what their table can say; nothing of a row that somebody has ended there meanwhile. One that
-- would not be pending any more would never be tried again: the statement ends with 22012 (division by zero), and nothing is written.
update {t.table} t set {t.retrying} from chosen w where t.{t.id} = w.outboxd_id and not w.outboxd_ends and ({t.pending})
returning w.outboxd_seq, 1 / (({t.pending}) is true)::int as outboxd_still

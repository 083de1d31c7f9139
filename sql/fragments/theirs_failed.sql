-- Of a failed attempt that was the last, what their table can say, unless somebody has ended it there meanwhile. `still`: it is pending there all the same.
update {t.table} t set {t.failed} from chosen w where t.{t.id} = w.outboxd_id and w.outboxd_ends and ({t.pending})
returning w.outboxd_seq, {t.stays} as outboxd_still

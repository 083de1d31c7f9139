-- The latest time of a pending row: the next look begins there. The index that serves the looks, from its end.
(select {t.place} from {t.table} t where {t.pending} and {t.time} is not null order by {t.back} limit 1)

-- The latest time of a pending row past where it is looked: the next look begins there. The index that serves the looks, from its end.
-- Without the bound it would pass all that was relayed lately, while somebody's snapshot keeps that from being forgotten.
(select {t.place} from {t.table} t where {t.pending} and {t.time} is not null and {since} order by {t.back} limit 1)

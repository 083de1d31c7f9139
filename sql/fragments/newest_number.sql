-- The highest number that can be seen: the next look begins there.
(select max({t.place}) from {t.table} t)

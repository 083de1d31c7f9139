-- The same for the cursor's statements, for rows that are to be sent only.
left join lateral (select case when p.known then {t.payload} end as payload,
case when p.known then {t.headers} end as headers, ({t.pending}) and case when p.known then {t.same_p} else true end as still
from {t.table} t where p.state = 1 and t.{t.id} = p.id offset 0) x on true

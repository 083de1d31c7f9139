-- Contents of messages from their table, for statements that bring messages; rows that are not to be sent any more, because they
-- are gone there or something else became of them, and rows that are not what was enlisted, are left out. `offset 0`, and the condition
-- is looked at behind it: as a condition of a join the planner takes it for true of one row, reads all that is pending and filters by the id.
join lateral (select case when m.{c.seq} <> all(u.contents) then {t.payload} end as payload,
case when m.{c.seq} <> all(u.contents) then {t.headers} end as headers,
({t.pending}) and case when m.{c.seq} <> all(u.contents) then {t.same_m} else true end as still
from {t.table} t where t.{t.id} = m.{c.id} offset 0) x on x.still

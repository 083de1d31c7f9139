-- The keys of these messages ($1), as far as people are shown them.
-- Locks nothing. Index: primary key.
select m.{c.seq}, left(m.{c.key}, 1000) || case when length(left(m.{c.key}, 1001)) > 1000 then '...' else '' end
from {messages} m
where m.{c.seq} = any ($1::bigint[])

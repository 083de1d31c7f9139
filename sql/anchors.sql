-- The messages with the highest numbers up to $1, $2 of them.
-- Locks nothing. Index: primary key.
select m.{c.seq} as seq, m.{c.id}::text as id
from {messages} m
where m.{c.seq} <= $1 and m.{c.id} is not null
order by m.{c.seq} desc
limit $2

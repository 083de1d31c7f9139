-- The number of the next row retention would look at past $1: that row is stepped over.
-- Locks nothing. Index: primary key; for failed rows, theirs.
select min(m.{c.seq}) as upto from {messages} m where m.{c.seq} > $1 and {looked_at}

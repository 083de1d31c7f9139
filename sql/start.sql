-- The last number taken, somewhat below which the cursor starts: the sequence's, or, where that may not be known, the highest
-- there is.
-- Locks nothing. Index: primary key (its last entry). Law: no gaps.
-- $1 the sequence's last number or null
select coalesce($1::bigint, (select max(m.{c.seq}) from {messages} m), 0) as last

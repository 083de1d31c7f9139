-- Whether a condition over a row of a table can be prepared.
-- Locks nothing.
select 1 from {messages} t where ({expression})

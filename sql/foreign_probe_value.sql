-- What an expression over a row of a table is: prepared only, for its type and whether it can be.
-- Locks nothing.
select ({expression}) as value from {messages} t

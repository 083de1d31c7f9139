-- How many lanes the outbox is divided into.
-- Locks nothing. A few rows.
select count(*) from {lanes} where outbox = {table_text}

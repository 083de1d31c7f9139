-- Lanes with their owners.
-- Locks nothing. A few rows.
select lane, owner, epoch from {lanes} where outbox = {table_text} order by lane

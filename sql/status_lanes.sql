-- Lanes with their owners.
-- Locks nothing. A few rows.
select lane, owner, epoch from {lanes} order by lane

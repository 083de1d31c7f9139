-- The lanes an instance holds.
-- Locks nothing. A table of a few dozen rows.
-- $1 instance
select l.lane, l.epoch from {lanes} l where l.owner = $1

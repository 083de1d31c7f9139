-- Whether the sequence behind `seq` stands below the numbers in use: its next one is there already.
-- Locks nothing. Primary key (its last entry).
select s.oid::regclass::text as sequence, max(m.{c.seq}) as used, coalesce(pg_sequence_last_value(s.oid), 0) as last
from (select {sequence} as oid) s, {messages} m
group by s.oid
having max(m.{c.seq}) > coalesce(pg_sequence_last_value(s.oid), 0)

-- The sequence behind `seq`, how many numbers a session takes from it at a time, and how far apart they are.
-- Locks nothing; reads the catalog.
select s.seqrelid::regclass::text as name, s.seqcache as cache, s.seqincrement as increment
from pg_sequence s
where s.seqrelid = {sequence}

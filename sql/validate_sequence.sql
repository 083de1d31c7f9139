-- The sequence behind `seq` and how many numbers a session takes from it at a time.
-- Locks nothing; reads the catalog.
select s.seqrelid::regclass::text, s.seqcache
from pg_sequence s
where s.seqrelid = {sequence}

-- Transactions that have taken a number from the sequence and are still open: nextval's lock on it is kept to the end of the
-- top-level transaction, through savepoints and PREPARE. A prepared transaction shows as -1/... after a server restart.
-- Locks nothing. Law: no gaps (relies on nextval's locking, pinned by the late-commit tests).
-- $1 the sequence
select distinct l.virtualtransaction as holder
from pg_locks l
where l.locktype = 'relation' and l.granted and l.relation = $1
  and l.database = (select d.oid from pg_database d where d.datname = current_database())

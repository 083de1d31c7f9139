-- Who holds the lock of row $1, where it is one transaction: its session, as the row itself names it.
-- Locks nothing. Index: primary key.
select a.pid, coalesce(a.application_name, '') as application
from {messages} m
join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = m.xmax
join pg_stat_activity a on a.pid = l.pid
where m.{c.seq} = $1

-- Who holds the locks of these rows, as far as the rows themselves tell: the transaction that wrote or locked each last, if that is
-- still open. Several that share a lock are not told.
-- Locks nothing. Index: primary key.
-- $1 seqs
select m.{c.seq} as seq, a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, p.gid, '?') as who,
  case when p.gid is not null then 'prepared' else coalesce(a.state, 'state unknown') end as state,
  date_part('epoch', clock_timestamp() - coalesce(a.xact_start, p.prepared)) as open_for
from {messages} m
  join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = m.xmax
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_prepared_xacts p on p.transaction = m.xmax
where m.{c.seq} = any($1::bigint[])

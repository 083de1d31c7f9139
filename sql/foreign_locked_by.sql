-- As locked_by.sql, of a table that is not ours: who holds the locks of these rows there.
-- Locks nothing. Indexes: ours, primary key; theirs, the id.
-- $1 seqs
select m.{c.seq} as seq, a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, p.gid, '?') as who,
  case when p.gid is not null then 'prepared' else coalesce(a.state, 'state unknown') end as state,
  date_part('epoch', clock_timestamp() - coalesce(a.xact_start, p.prepared)) as open_for
from {messages} m
  join {t.table} t on t.{t.id} = m.{c.id}
  join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = t.xmax
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_prepared_xacts p on p.transaction = t.xmax
where m.{c.seq} = any($1::bigint[])

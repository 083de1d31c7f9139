-- What stands behind the outbox's name, how far its sequence has come, whether rows are pending past that, and who holds the
-- sequence. Read now, whatever snapshot is kept: another table, an emptied one or a sequence set back must show at once.
-- nextval's lock on the sequence is kept to the end of the top-level transaction, through savepoints and PREPARE; a prepared
-- transaction shows as -1/... after a server restart. Who merely reads the sequence, as a dump and we do, has taken no number
-- (pg_sequence_last_value would lock it like nextval).
-- Locks nothing. Index: pending (one descent; ordered, for under `exists` the planner prefers to read the table). Law: no gaps (relies on nextval's locking, pinned by the late-commit tests).
with place as materialized (
  select to_regclass({messages_text})::oid as relation, {sequence} as sequence
), last as materialized (
  select {last} as number
)
select p.relation, p.sequence, l.number as last,
  case when has_sequence_privilege(p.sequence, 'select') then (
    select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = p.sequence
  ) end as sequence_name,
  coalesce(
    (select string_agg(coalesce(pg_relation_filenode(t.relid), 0)::text, ' ' order by t.relid::oid) from pg_partition_tree(p.relation::regclass) t),
    pg_relation_filenode(p.relation)::text, '') as files,
  pg_relation_filenode(p.sequence::regclass) as sequence_file, pg_postmaster_start_time()::text as server,
  l.number is not null and (
    select m.{c.seq} from {messages} m where m.{c.seq} > l.number and {pending} order by m.{c.seq} limit 1
  ) is not null as ahead,
  array(
    select distinct k.virtualtransaction from pg_locks k
    where k.locktype = 'relation' and k.granted and k.relation = p.sequence and k.mode <> 'AccessShareLock'
      and k.database = (select d.oid from pg_database d where d.datname = current_database())
  ) as holders
from place p, last l

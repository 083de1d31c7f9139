-- What stands behind the outbox's name, whether row-level security hides some of it from us, how far its sequence has come,
-- whether rows are pending past that, and who holds the sequence. Read now, whatever snapshot is kept: another table, an
-- emptied one or a sequence set back must show at once. The server is told by a number: sessions print times differently.
-- nextval's lock on the sequence is kept to the end of the top-level transaction, through savepoints and PREPARE; a prepared
-- transaction shows as -1/... after a server restart. Who merely reads the sequence, as a dump and we do, has taken no number
-- (pg_sequence_last_value would lock it like nextval).
-- Locks nothing. Index: pending (one descent; ordered, for under `exists` the planner prefers to read the table). Law: no gaps (relies on nextval's locking, pinned by the late-commit tests).
with place as materialized (
  select to_regclass({messages_text})::oid as relation, {sequence} as sequence
), policies as (
  select y.* from pg_policy y, place p
  where y.polrelid = p.relation and y.polcmd::text in ('*', 'r')
    and exists (select from unnest(y.polroles) r (oid)
                where r.oid = 0 or exists (select from pg_roles x where x.oid = r.oid and pg_has_role(x.oid, 'usage')))
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
  pg_relation_filenode(p.sequence::regclass) as sequence_file, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text as server,
  case when row_security_active(p.relation::oid) and (
    not exists (select from policies y where y.polpermissive and pg_get_expr(y.polqual, y.polrelid) = 'true')
    or exists (select from policies y where not y.polpermissive)
  ) then {messages_text} end as hidden,
  l.number is not null and (
    select m.{c.seq} from {messages} m where m.{c.seq} > l.number and {pending} order by m.{c.seq} limit 1
  ) is not null as ahead,
  array(
    select distinct k.virtualtransaction from pg_locks k
    where k.locktype = 'relation' and k.granted and k.relation = p.sequence and k.mode <> 'AccessShareLock'
      and k.database = (select d.oid from pg_database d where d.datname = current_database())
  ) as holders
from place p, last l

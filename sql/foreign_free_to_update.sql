-- As free_to_update.sql, of a table that is not ours: which of these rows no other transaction holds there. One that is gone there is
-- held by nobody.
-- Locks: the rows it answers, to the end of the statement; waits for none. Indexes: ours, primary key; theirs, the id.
-- $1 seqs
select f.seq from (
  select m.{c.seq} as seq from {messages} m join {t.table} t on t.{t.id} = m.{c.id}
  where m.{c.seq} = any($1::bigint[]) for no key update of t skip locked
) f
union all
select m.{c.seq} from {messages} m
where m.{c.seq} = any($1::bigint[]) and (select true from {t.table} t where t.{t.id} = m.{c.id}) is not true

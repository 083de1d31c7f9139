-- Which of these rows no other transaction holds, so that they can be updated at once.
-- Locks: the rows it answers, to the end of the statement; waits for none. Index: primary key.
-- $1 seqs
select m.{c.seq} as seq from {messages} m where m.{c.seq} = any($1::bigint[]) for no key update skip locked

-- Which of some messages, that the broker took for copies although they were never sent before, have a twin: another row with the
-- same message id that was relayed, or comes before it. Looks at the numbers from $3 to $4 only: the id has no index (it would
-- cost every insert).
-- Locks nothing. Index: primary key. Asked rarely: after a crash, or where an application gives two rows one id.
-- $1 seqs, $2 message ids
select i.seq as seq, min(m.{c.seq}) as twin
from {messages} m
join unnest($1::bigint[], $2::text[]) i(seq, id) on m.{c.id}::text = i.id and m.{c.seq} <> i.seq
where m.{c.seq} between $3 and $4
  and (m.{c.relayed_at} is not null or (m.{c.failed_at} is null and m.{c.seq} < i.seq))
group by i.seq

-- What instance $1 is asked about: a few questions, the oldest first. Those that were answered, and those whose asker has given up,
-- are forgotten; rows that somebody holds locked are left to the next look.
-- Locks the rows it forgets, and waits for none. Index: outboxd_questions_open.
with forgotten as (
  delete from {questions} q
  where q.id in (
    select o.id from {questions} o
    where o.outbox = {table_text} and (o.at < now() - interval '1 minute' or (o.answer is not null and o.at < now() - interval '10 seconds'))
    limit 1000
    for update skip locked
  )
)
select q.id, q.seq
from {questions} q
where q.outbox = {table_text} and q.instance = $1 and q.answer is null and q.at >= now() - interval '1 minute'
order by q.id
limit 20

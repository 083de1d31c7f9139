-- What instance $1 is asked about: a few questions, the oldest first. Those whose asker is gone are forgotten.
-- Locks the rows it forgets. The table is all but empty.
with forgotten as (
  delete from {questions} q where q.outbox = {table_text} and q.at < now() - interval '1 minute'
)
select q.id, q.seq
from {questions} q
where q.outbox = {table_text} and q.instance = $1 and q.answer is null
order by q.id
limit 20

-- What was answered to question $1; null: nothing yet.
-- Locks nothing. Primary key.
select (select q.answer from {questions} q where q.outbox = {table_text} and q.id = $1)

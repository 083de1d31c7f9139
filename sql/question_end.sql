-- Question $1 was answered, or is given up.
-- Locks that row. Primary key.
delete from {questions} q where q.outbox = {table_text} and q.id = $1

-- Answers question $1 with $2.
-- Locks that row. Primary key.
update {questions} q set answer = $2::text::jsonb where q.outbox = {table_text} and q.id = $1

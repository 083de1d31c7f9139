-- Answers question $1 with $2, unless somebody holds its row locked: that question is not answered.
-- Locks that row, and waits for none. Primary key.
update {questions} q set answer = $2
where q.id = (select o.id from {questions} o where o.outbox = {table_text} and o.id = $1 for update skip locked)

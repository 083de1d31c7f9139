-- Asks instance $1 about message $2, and wakes it where it listens.
-- Locks nothing that anybody waits for: one row of its own. Law: hints.
with asked as (
  insert into {questions} (outbox, instance, seq) values ({table_text}, $1, $2) returning id
)
select id, pg_notify({channel}, 'outboxd questions') from asked

-- Notifies whoever listens, from another connection than the one that does: behind a pooler in transaction mode a listener
-- would hear its own notification, which comes before the answer to its statement, and never anybody else's.
-- Locks nothing. Law: hints.
-- $1 a word by which the listener knows that it was meant
select pg_notify({channel}, $1)

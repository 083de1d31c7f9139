-- Deletes acknowledged messages (on_relayed = "delete") whose numbers lie close together, as mark.sql marks them.
-- Locks: the rows it writes; waits for each $6 at most. Index: primary key or pending. Laws: fenced (every lane still has
-- the owner and epoch the messages were sent under, or nothing is written), identity, idempotent.
-- $1 one bit for each number from $7 to $8, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null,
-- $6 lock_timeout, $9 one message id for each number from $7 to $8
delete from {messages} m
where {among} and {pending}
  and {fenced}

-- Deletes acknowledged messages (on_relayed = "delete") whose numbers lie close together, as mark.sql marks them.
-- Locks: the rows it writes; waits 100 ms for each at most. Index: primary key or pending. Laws: fenced (every lane still has
-- the owner and epoch the messages were sent under, or nothing is written), identity, idempotent.
-- $1 one bit for each number from $6 to $7, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null,
-- $8 one message id for each number from $6 to $7
delete from {messages} m
where {among} and {pending}
  and {fenced}

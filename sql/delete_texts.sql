-- As delete_listed.sql, where message ids are no uuids.
-- Locks: the rows it writes; waits for each $6 at most. Index: primary key. Laws: fenced (every lane still has the owner
-- and epoch the messages were sent under, or nothing is written), identity, idempotent.
-- $1 seqs, in order, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null, $6 lock_timeout,
-- $7 message ids, $8 replays
delete from {messages} m
where {listed_text} and {pending}
  and {fenced}

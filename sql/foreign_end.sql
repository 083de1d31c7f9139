-- As mark.sql and delete.sql, of a table that is not ours: marks acknowledged messages there (or deletes them) and strikes them off
-- ours, in one statement. Struck off is what was written there: a row that a trigger of theirs leaves as it was, or that is still
-- pending there whatever was set, stays here, and is not enlisted anew.
-- Locks: the rows it writes; waits for each $6 at most. Indexes: ours, primary key or pending; theirs, the id. Laws: fenced (every
-- lane still has the owner and epoch the messages were sent under, or nothing is written), identity, idempotent.
-- $1 one bit for each number from $7 to $8, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null,
-- $6 lock_timeout, $9 one message id for each number from $7 to $8
with chosen as materialized (
  select m.{c.seq} as outboxd_seq, m.{c.id} as outboxd_id
  from {messages} m
  where {among} and {pending}
    and {fenced}
), done as (
  {theirs_end}
)
delete from {messages} m using done where m.{c.seq} = done.outboxd_seq and done.outboxd_still is not true

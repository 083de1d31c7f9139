-- As foreign_end_listed.sql, where message ids are no uuids.
-- Locks: the rows it writes; waits for each $6 at most. Indexes: ours, primary key; theirs, the id. Laws: fenced (every lane
-- still has the owner and epoch the messages were sent under, or nothing is written), identity, idempotent.
-- $1 seqs, in order, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null, $6 lock_timeout,
-- $7 message ids, $8 replays
with chosen as materialized (
  select m.{c.seq} as outboxd_seq, m.{c.id} as outboxd_id
  from {messages} m
  where {listed_text} and {pending}
    and {fenced}
), done as (
  {theirs_end}
)
delete from {messages} m using done where m.{c.seq} = done.outboxd_seq and done.outboxd_still is not true

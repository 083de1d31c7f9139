-- Marks acknowledged messages whose numbers lie far apart (close together: mark.sql). By list, never by range: a range would
-- mark rows nobody sent.
-- Locks: the rows it writes. Index: primary key. Laws: fenced (every lane still has the owner and epoch the messages were
-- sent under, or nothing is written), idempotent.
-- $1 seqs, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null
update {messages} m
set {c.relayed_at} = now(), {c.updated_at} = now()
where m.{c.seq} = any($1::bigint[]) and {pending}
  and {fenced}

-- Deletes acknowledged messages (on_relayed = "delete") whose numbers lie far apart (close together: delete.sql). By list,
-- never by range.
-- Locks: the rows it writes. Index: primary key. Laws: fenced (every lane still has the owner and epoch the messages were
-- sent under, or nothing is written), idempotent.
-- $1 seqs, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null
delete from {messages} m
where m.{c.seq} = any($1::bigint[]) and {pending}
  and {fenced}

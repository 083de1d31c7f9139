-- As mark.sql, for marks that outlived a connection: after a failover the same number may belong to another message.
-- Locks: the rows it writes. Index: primary key. Laws: fenced (every lane still has the owner and epoch the messages were
-- sent under, or nothing is written), idempotent.
-- $1 seqs, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null, $6 message ids
update {messages} m
set {c.relayed_at} = now(), {c.updated_at} = now()
from unnest($1::bigint[], $6::text[]) i(seq, id)
where m.{c.seq} = i.seq and m.{c.id}::text = i.id and {pending}
  and {fenced}

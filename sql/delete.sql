-- Deletes acknowledged messages (on_relayed = "delete"). By list, never by range.
-- Locks: the rows it writes. Index: primary key. Laws: fenced (every lane still has the owner and epoch the messages were
-- sent under, or nothing is written), idempotent.
-- $1 seqs, $2 and $3 lanes and their epochs, $4 instance, $5 synchronous_commit or null
delete from {messages} m
where m.{c.seq} = any($1::bigint[]) and {pending}
  and (
    select count(*) from {lanes} l
    join unnest($2::int[], $3::bigint[]) e(lane, epoch) on e.lane = l.lane and e.epoch = l.epoch
    where l.owner = $4
  ) = cardinality($2::int[])
  and (select set_config('synchronous_commit', coalesce($5::text, current_setting('synchronous_commit')), true)) is not null

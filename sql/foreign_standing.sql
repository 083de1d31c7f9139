-- As standing.sql, of a table that is not ours: which of these messages are still pending there, so that they would be enlisted and
-- sent again; of failed attempts, which still wait for them to be written.
-- Locks nothing. Indexes: ours, primary key; theirs, the id.
-- $1 seqs, $2 message ids, $3 replays, $4 attempts (null: any)
select i.seq as seq
from unnest($1::bigint[], $2::text[], $3::int[], $4::int[]) i(seq, id, replay, attempt)
  cross join lateral (select ({t.pending}) as still from {t.table} t where t.{t.id} = i.id::{t.id_type} offset 0) x
where x.still and (i.attempt is null or exists (
  select from {messages} m where {same_text} and {pending} and coalesce(m.{c.attempt}, 1) = i.attempt))

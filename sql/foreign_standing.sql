-- As standing.sql, of a table that is not ours: which of these messages are still pending there and here, or ($5) there alone: they
-- would be enlisted and sent again; of failed attempts, which still wait for them to be written. What was struck off here meanwhile,
-- because it was changed there, is no longer what was sent.
-- Locks nothing. Indexes: ours, primary key; theirs, the id.
-- $1 seqs, $2 message ids, $3 replays, $4 attempts (null: any), $5 whether it was written here
select i.seq as seq
from unnest($1::bigint[], $2::text[], $3::int[], $4::int[]) i(seq, id, replay, attempt)
  cross join lateral (select ({t.pending}) as still from {t.table} t where t.{t.id} = i.id::{t.id_type} offset 0) x
where x.still and case when i.attempt is null and $5::boolean then true else exists (
  select from {messages} m where {same_text} and {pending} and (i.attempt is null or coalesce(m.{c.attempt}, 1) = i.attempt)) end

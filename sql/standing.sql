-- Which of these messages are still to be settled.
-- Locks nothing. Index: primary key.
-- $1 seqs, $2 message ids, $3 replays, $4 attempts (null: any)
select m.{c.seq} as seq
from {messages} m
  join unnest($1::bigint[], $2::text[], $3::int[], $4::int[]) i(seq, id, replay, attempt) on {same_text}
where {pending} and (i.attempt is null or coalesce(m.{c.attempt}, 1) = i.attempt)

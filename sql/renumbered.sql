-- Whether one of the numbers $1, whose messages were $2, is another message's now.
-- Locks nothing. Index: primary key.
select count(*) > 0 as renumbered
from unnest($1::bigint[], $2::text[]) as known (seq, id)
cross join lateral (select bool_or(m.{c.id}::text = known.id) as is_there from {messages} m where m.{c.seq} = known.seq) now
where not now.is_there

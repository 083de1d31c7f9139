-- Which of the $2 rows below $1 have one of the message ids $3, and where these rows begin. The message id has no index (it would
-- cost every insert), so whoever looks for one goes back from the newest row.
-- Locks nothing. Primary key, backwards.
select min(p.seq) as first, count(*) as rows,
       coalesce(array_agg(p.seq order by p.seq desc) filter (where p.id = any ($3::text[])), '{}') as seqs,
       coalesce(array_agg(p.id order by p.seq desc) filter (where p.id = any ($3::text[])), '{}') as ids
from (
    select m.{c.seq} as seq, m.{c.id}::text as id from {messages} m where m.{c.seq} < $1 order by m.{c.seq} desc limit $2
) p

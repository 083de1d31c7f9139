-- Which failed messages a person means: every filter given must hold. One snapshot decides for a whole bulk command.
-- Ids ($3 seqs, $4 message ids) are alternatives of each other. Message id and replay come back so that what is
-- changed later is what was chosen, and unknown ids can be named.
-- $9: the last row of the page before.
-- Locks nothing. Walks the index on failed rows, so its cost is that of the failed rows, not of the table.
select m.{c.seq}, m.{c.id}::text, coalesce(m.{c.replay}, 0)
from {messages} m
where m.{c.failed_at} is not null
  and ($1::text is null or case when {legible} then m.{c.topic} = $1 end)
  and ($2::text is null or case when {legible} then m.{c.key} = $2 end)
  and ($3::bigint[] is null or m.{c.seq} = any ($3) or m.{c.id}::text = any ($4))
  and ($5::timestamptz is null or m.{c.failed_at} >= $5)
  and ($6::double precision is null or m.{c.failed_at} >= now() - make_interval(secs => $6))
  and ($9::bigint is null or m.{c.seq} > $9)
  and ($7::text is null or strpos(m.{c.last_error}, $7) > 0)
order by m.{c.seq}
limit $8::bigint

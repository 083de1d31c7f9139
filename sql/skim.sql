-- Looks ahead over rows that need not be sent (a million delayed ones, say) without bringing them: how many there are, whether
-- any number is missing among them, and where the first row to send stands.
-- Locks nothing. Index: primary key. Law: no gaps (a missing number ends the skimming).
-- $1 cursor, $2 rows at most, $3 lanes held, one bit each
select count(*) as rows, min(p.seq) as first, max(p.seq) as last, min(p.seq) filter (where p.wanted) as first_wanted,
  min(p.due_in) filter (where p.waits) as due_in
from (
  select m.{c.seq} as seq, {pending} and {ready} and get_bit($3::bytea, {lane}::int) = 1 as wanted,
    {pending} and not {ready} as waits,
    date_part('epoch', greatest(least(m.{c.available_at}, now() + interval '1 hour'), now()) - now()) as due_in
  from {messages} m
  cross join (select '{}'::bigint[] as places) u
  where m.{c.seq} > $1 and m.{c.seq} <= {ceiling}
  order by m.{c.seq}
  limit $2
) p

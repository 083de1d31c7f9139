-- The same of the lists $1, $7 and $8, which are in the order of the numbers. No join: a plan made for one while the
-- table was small, and kept, reads all of it for each statement when it has grown.
m.{c.seq} = any($1::bigint[])
and m.{c.id} is not distinct from ($7::uuid[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]
and coalesce(m.{c.replay}, 0) = ($8::int[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]

-- As `listed`, of ids that are no uuids.
m.{c.seq} = any($1::bigint[])
and m.{c.id}::text is not distinct from ($7::text[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]
and coalesce(m.{c.replay}, 0) = ($8::int[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]

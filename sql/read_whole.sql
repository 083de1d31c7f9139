-- Rows $1 with everything that may be long, and their lanes, one after the other: the server stops at the first it cannot read.
-- Locks nothing. Primary key. Nothing is computed before a row's turn (`offset 0`).
select m.{c.seq} as seq, {lane}::int as lane, m.{c.topic} as topic, m.{c.key} as key, m.{c.payload} as payload, m.{c.headers} as headers
from (select * from {whole} n where n.{c.seq} = any($1::bigint[]) order by n.{c.seq} offset 0) m
cross join (select '{}'::bigint[] as places) u

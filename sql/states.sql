-- How the rows $1 stand, and which messages they are.
-- Locks nothing. Primary key.
select m.{c.seq} as seq, m.{c.id}::text as id, m.{c.relayed_at} is not null as relayed, m.{c.failed_at} is not null as failed, m.{c.last_error} as last_error
from {messages} m
where m.{c.seq} = any ($1::bigint[])
order by m.{c.seq}

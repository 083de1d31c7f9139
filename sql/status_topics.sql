-- The topics of the first $1 pending messages.
-- Locks nothing. Index on pending rows.
select distinct page.topic
from (select m.{c.topic} as topic from {messages} m where {pending} order by m.{c.seq} limit $1::bigint) page

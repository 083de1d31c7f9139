-- How many of the first $2 pending messages that do not wait for a time are of the paused topics ($1).
-- Locks nothing. Index on pending rows.
select count(*)
from (
    select m.{c.topic} as topic from {messages} m where {pending} and {ready} order by m.{c.seq} limit $2::bigint
) page
where page.topic = any ($1::text[])

-- Message ids that more than one of the first $1 pending messages have, with the first and the last row of each. At most 5.
-- Locks nothing. Index on pending rows.
select page.id, count(*) as rows, min(page.seq) as first, max(page.seq) as last
from (select m.{c.id}::text as id, m.{c.seq} as seq from {messages} m where {pending} order by m.{c.seq} limit $1::bigint) page
group by page.id
having count(*) > 1
order by min(page.seq)
limit 5

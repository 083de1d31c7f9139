-- The topics of the first $1 pending messages, with the first key of each and the size of its largest message, in bytes.
-- Locks nothing. Index on pending rows.
select page.topic, min(page.key) as key, coalesce(max(page.size), 0)::bigint as largest
from (select m.{c.topic} as topic, m.{c.key} as key, octet_length(m.{c.payload}::text) as size
      from {whole} m where {pending} and m.{c.topic} is not null order by m.{c.seq} limit $1::bigint) page
group by page.topic
order by page.topic

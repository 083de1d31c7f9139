-- The first $1 pending rows of a table that is not ours, in the order they would be enlisted in, as they would be sent.
-- Locks nothing. The index that finds pending rows.
select t.{t.id}::text as id, {t.topic} as topic, {t.key} as key, {t.headers}::text as headers, {t.payload}::text as payload
from {t.table} t
where {t.pending}
order by {t.order}
limit $1

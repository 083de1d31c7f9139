-- How many of the first $1 failed messages failed because they cannot be read from the table, and the first of them.
-- Locks nothing. Index on failed rows.
select count(*) as rows, min(page.seq) as first
from (select m.{c.seq} as seq, m.{c.last_error} as last_error from {messages} m where m.{c.failed_at} is not null
      order by m.{c.seq} limit $1::bigint) page
where page.last_error ~ '^(topic|key|payload|headers)[a-z, ]* cannot be read: '

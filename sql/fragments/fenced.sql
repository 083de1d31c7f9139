-- Of the statements that end messages, a filter that is evaluated once, before any row is touched: every lane ($2, at
-- epoch $3) is still held by instance $4; how durable the commit is ($5); and how long a lock is waited for ($6).
(select count(*) from {lanes} l
join unnest($2::int[], $3::bigint[]) e(lane, epoch) on e.lane = l.lane and e.epoch = l.epoch
where l.outbox = {table_text} and l.owner = $4) = cardinality($2::int[])
and (select set_config('synchronous_commit', coalesce($5::text, current_setting('synchronous_commit')), true))
is not null and (select set_config('lock_timeout', $6::text, true)) is not null

-- Which pending and failed rows have one of the message ids $1.
-- Locks nothing. Indexes on pending and on failed rows: relayed rows are never looked at.
select m.{c.seq} as seq, m.{c.id}::text as id from {messages} m where {pending} and m.{c.id}::text = any ($1::text[])
union all
select m.{c.seq}, m.{c.id}::text from {messages} m where m.{c.failed_at} is not null and m.{c.id}::text = any ($1::text[])

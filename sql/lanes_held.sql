-- The lanes an instance holds: none when another process has taken its name.
-- Locks nothing. A table of a few dozen rows.
-- $1 instance, $2 session
select l.lane, l.epoch from {lanes} l
where l.outbox = {table_text} and l.owner = $1
  and exists (select from {instances} i where i.outbox = {table_text} and i.instance = $1 and i.session = $2)

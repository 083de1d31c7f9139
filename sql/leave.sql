-- Hands all lanes back, unregisters, and says so.
-- Locks: its lanes and its own row.
-- $1 instance, $2 session
with gone as (
  delete from {instances} i where i.outbox = {table_text} and i.instance = $1 and i.session = $2 returning i.instance
), freed as (
  update {lanes} l set owner = null where l.outbox = {table_text} and l.owner in (select g.instance from gone g)
)
select pg_notify({channel}, 'outboxd instances') from gone

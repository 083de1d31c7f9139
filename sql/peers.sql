-- Every instance that is registered: its machine and version, when it started, what tells this renewal from others, for how many
-- seconds it was made, seconds until its lease ends (negative: ended)
-- and since it started, and how many lanes are in its name.
-- Locks nothing. A few rows. One clock.
select i.instance, i.machine, i.version, to_json(i.started_at) #>> '{}' as started_at,
  i.session::text || ' ' || extract(epoch from i.renewed_at)::text as renewal,
  date_part('epoch', i.expires_at - i.renewed_at) as lasts, date_part('epoch', i.expires_at - now()) as ends_in,
  date_part('epoch', now() - i.started_at) as runs_for,
  (select count(*) from {lanes} l where l.outbox = {table_text} and l.owner = i.instance) as lanes
from {instances} i
where i.outbox = {table_text}
order by i.instance

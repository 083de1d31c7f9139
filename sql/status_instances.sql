-- Instances that registered, with the lanes they own and how long the database still believes in them (negative: no more).
-- Locks nothing. A few rows.
select i.instance, i.version, i.machine, (select count(*) from {lanes} l where l.outbox = {table_text} and l.owner = i.instance),
       to_json(i.started_at) #>> '{}', extract(epoch from i.expires_at - now())::double precision
from {instances} i
where i.outbox = {table_text}
order by i.instance

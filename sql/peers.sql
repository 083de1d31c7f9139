-- Every instance that is registered: its version, seconds until its lease ends (negative: ended) and since it started, and
-- how many lanes are in its name.
-- Locks nothing. A few rows. One clock.
select i.instance, i.version, date_part('epoch', i.expires_at - now()) as ends_in,
  date_part('epoch', now() - i.started_at) as runs_for,
  (select count(*) from {lanes} l where l.owner = i.instance) as lanes
from {instances} i
order by i.instance

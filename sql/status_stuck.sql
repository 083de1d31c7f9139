-- What the instances whose lease has not ended know of messages that are stuck, and the time.
-- Locks nothing. A few rows. One clock.
select i.instance, i.stuck::text as stuck, date_part('epoch', now())::double precision as now
from {instances} i
where i.outbox = {table_text} and i.stuck is not null and i.expires_at > now()
order by i.instance

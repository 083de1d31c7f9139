-- How long until the next row that waits falls due; an hour at most.
-- Locks nothing. Index: waiting (its first entry past now). One clock: the database's.
select date_part('epoch', greatest(least(m.{c.available_at}, now() + interval '1 hour'), now()) - now()) as due_in
from {messages} m
where {pending} and {waits} and m.{c.available_at} > now()
order by m.{c.available_at}
limit 1

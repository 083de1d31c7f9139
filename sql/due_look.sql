-- How long until the first row that waits for a time falls due: 0 when one is due; an hour at most. No row: none waits.
-- Locks nothing. Index: waiting (its first entry). One clock: the database's.
select date_part('epoch', greatest(least(m.{c.available_at}, now() + interval '1 hour'), now()) - now()) as due_in
from {messages} m
where {pending} and {waits}
order by m.{c.available_at}
limit 1

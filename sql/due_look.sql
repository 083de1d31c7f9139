-- How long until the first row that waits for a time falls due: 0 or less when one is due; an hour at most. No row: none waits.
-- Locks nothing. Index: waiting (its first entry). One clock: the database's.
select date_part('epoch', least(m.{c.available_at}, now() + interval '1 hour') - now()) as due_in
from {messages} m
where {pending} and {waiting}
order by m.{c.available_at}
limit 1

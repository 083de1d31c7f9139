-- Topics an operator has paused, since when, and by whom.
-- Locks nothing. A few rows.
select p.topic, to_json(p.at) #>> '{}', p.who
from {paused} p
where p.outbox = {table_text}
order by p.topic

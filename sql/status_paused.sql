-- Topics an operator has paused, since when, and by whom.
-- Locks nothing. A few rows.
select p.topic, to_json(p.at) #>> '{}', p.who
from {paused} p
order by p.topic

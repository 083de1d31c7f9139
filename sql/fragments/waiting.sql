-- Tried before, replayed or delayed: the condition of the index of rows that wait.
(m.{c.attempt} > 1 or m.{c.replay} > 0 or m.{c.available_at} > m.{c.inserted_at})

-- To be sent now. A row that was due when it was committed waits for nothing, though its application's clock made it
-- look delayed. Nulls decide nothing. Without `inserted_at` a delayed row is in no index of those that wait: it is
-- passed until its time. The clock is read past the snapshot: what was committed by then is never a moment too early.
(({waiting} and m.{c.available_at} is not null) is not true
and (m.{c.inserted_at} is not null or coalesce(m.{c.available_at} <= clock_timestamp(), true))
or (coalesce(m.{c.attempt}, 1) <= 1 and coalesce(m.{c.replay}, 0) <= 0 and m.{c.available_at} <= clock_timestamp()))

-- Whether migrate made the outbox's table. One made by hand is kept as it is, and nothing is deleted from it unasked.
-- Locks nothing; reads the catalog.
select {made} as made

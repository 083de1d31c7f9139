-- Ends that transaction.
-- Locks nothing.
commit

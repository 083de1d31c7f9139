-- Begins a transaction whose statements all see the snapshot of the first: a page, and the gaps that belong before it.
-- Locks nothing. Law: short (it ends before the page is handed over).
begin isolation level repeatable read read only

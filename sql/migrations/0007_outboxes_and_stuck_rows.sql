-- What an instance knows of rows that are stuck (a trigger raises, a lock is held): so that `status` shows them from everywhere.
--
-- Locks: the small service table, briefly.

alter table {instances} add column if not exists stuck jsonb;

-- Listens for wakes, and sends one to itself: behind a pooler in transaction mode it never arrives.
-- Locks nothing. Law: hints.
listen {channel_name};
select pg_notify({channel}, 'outboxd probe')

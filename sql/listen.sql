-- Listens for wakes.
-- Locks nothing. Law: hints.
listen {channel_name}

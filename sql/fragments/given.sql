-- The last number a sequence has given, 0 for none. Its name is filled in once it is known.
(select case when q.is_called then q.last_value else greatest(q.last_value, -9223372036854775807) - 1 end from {given_by} q)

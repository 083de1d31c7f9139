-- Which server process answers. Behind a pooler in transaction mode another one does from one statement to the next, or one does
-- for two connections.
-- Locks nothing.
select pg_backend_pid()

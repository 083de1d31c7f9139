-- Of prune.sql's page, the rows that are old enough: what a step deletes.
-- Locks nothing.
select p.seq from page p where p.settled_at < now() - make_interval(secs => $3::double precision)

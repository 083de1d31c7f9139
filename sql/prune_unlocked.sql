-- As prune_old.sql, but for the rows another transaction has locked: what a step deletes after it has waited in vain.
-- Locks: the rows it names, which are deleted by the same statement. Index: primary key.
select m.{c.seq} as seq
from {messages} m
where m.{c.seq} = any (array(select p.seq from page p where p.settled_at < now() - make_interval(secs => $3::double precision)))
for update skip locked

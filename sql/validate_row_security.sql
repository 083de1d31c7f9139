-- Tables whose rows row-level security may hide from the current role: it is on, and no policy shows the role every row for
-- reading and writing, or a restrictive one takes some away (its name is the second column).
-- Locks nothing; reads the catalog.
with tables as (
    select c.oid, c.relname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace and n.nspname = {schema_text}
    where c.relname = any (array[{rows_text}, {table_text}, 'outboxd_lanes', 'outboxd_instances', 'outboxd_attempts', 'outboxd_paused'])
      and row_security_active(c.oid)
), policies as (
    select p.polrelid, p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid) as shows
    from pg_policy p
    where exists (select from unnest(p.polroles) as r (oid)
                  where r.oid = 0 or exists (select from pg_roles x where x.oid = r.oid and pg_has_role(x.oid, 'usage')))
)
select t.relname::text, (select min(p.polname)::text from policies p where p.polrelid = t.oid and not p.polpermissive)
from tables t
where exists (select from policies p where p.polrelid = t.oid and not p.polpermissive)
   or exists (
       select from unnest(array['r', 'w']) as c (command)
       where not exists (select from policies p where p.polrelid = t.oid and p.polpermissive and p.shows = 'true'
                           and p.polcmd::text in ('*', c.command)))
order by t.relname

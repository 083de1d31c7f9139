-- What could make a write of a row have no effect without an error: triggers of the table and of all its partitions, before it or
-- after; rules, and policies. A partition's copy of a trigger of the table is not named again.
-- Locks nothing; reads the catalog.
-- $1 whether rows are deleted, not updated
with recursive parts as (
    select {written_text}::regclass::oid as oid
    union
    select i.inhrelid from pg_inherits i join parts p on p.oid = i.inhparent
)
select 'trigger ' || t.tgname || case when t.tgrelid = {written_text}::regclass then '' else ' of ' || t.tgrelid::regclass::text end
         as name, true as is_trigger
from parts p join pg_trigger t on t.tgrelid = p.oid
where not t.tgisinternal and t.tgenabled <> 'D' and (t.tgtype & case when $1 then 8 else 16 end) <> 0
  and (t.tgrelid = {written_text}::regclass or not exists (
    select from pg_trigger w where w.tgrelid = {written_text}::regclass and w.tgname = t.tgname and w.tgfoid = t.tgfoid))
union all
select 'rule ' || r.rulename, false
from pg_rewrite r
where r.ev_class = {written_text}::regclass and r.ev_type = case when $1 then '4' else '2' end
union all
select 'policy ' || p.polname, false
from pg_policy p join pg_class c on c.oid = p.polrelid
where p.polrelid = {written_text}::regclass and c.relrowsecurity
  and p.polcmd in ('*', case when $1 then 'd' else 'w' end)
order by 1
limit 10

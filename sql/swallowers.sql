-- What could make a write of a row have no effect without an error: triggers before it, rules, and policies.
-- Locks nothing; reads the catalog.
-- $1 whether rows are deleted, not updated
select 'trigger ' || t.tgname as name, true as before
from pg_trigger t
where t.tgrelid = {messages_text}::regclass and not t.tgisinternal and t.tgenabled <> 'D'
  and (t.tgtype & 3) = 3 and (t.tgtype & case when $1 then 8 else 16 end) <> 0
union all
select 'rule ' || r.rulename, false
from pg_rewrite r
where r.ev_class = {messages_text}::regclass and r.ev_type = case when $1 then '4' else '2' end
union all
select 'policy ' || p.polname, false
from pg_policy p join pg_class c on c.oid = p.polrelid
where p.polrelid = {messages_text}::regclass and c.relrowsecurity
  and p.polcmd in ('*', case when $1 then 'd' else 'w' end)
order by 1
limit 10

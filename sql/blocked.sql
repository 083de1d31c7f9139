-- Which sessions of ours wait for a lock, what is locked, and who holds it: the one at the root of the queue. One row for each session
-- whose application_name begins with $1, of this login only or ($2) of any.
-- Locks nothing of a table; looks at the lock manager and the statistics of sessions. State and age of other roles' transactions are
-- seen by members of pg_read_all_stats only, their application and user by everybody.
with recursive waits as materialized (
    select l.pid, l.locktype, l.relation, l.transactionid from pg_locks l where not l.granted and l.pid is not null
), ours as materialized (
    select a.pid, a.application_name, w.locktype, w.transactionid,
           -- Whoever waits for a row's writer has locked the row's place meanwhile.
           coalesce(w.relation, (select t.relation from pg_locks t where t.pid = a.pid and t.locktype = 'tuple' limit 1)) as relation
    from pg_stat_activity a join waits w on w.pid = a.pid
    where a.datname = current_database() and (a.usename = session_user or $2) and starts_with(a.application_name, $1)
), chain (ours, pid) as (
    select o.pid, b.pid from ours o, unnest(pg_blocking_pids(o.pid)) as b (pid)
    union
    select c.ours, b.pid from chain c join waits w on w.pid = c.pid, unnest(pg_blocking_pids(c.pid)) as b (pid)
), prepared as materialized (
    select p.gid, p.owner, p.prepared, l.relation, l.transactionid
    from pg_prepared_xacts p
    join pg_locks x on x.locktype = 'transactionid' and x.pid is null and x.transactionid = p.transaction
    join pg_locks l on l.pid is null and l.granted and l.virtualtransaction = x.virtualtransaction
    where p.database = current_database()
)
select o.application_name as application, o.locktype as kind, c.relkind::text as relation_kind,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) as relation,
       h.pid, h.gid, h.who, h.state, h.open_for,
       (select min(b.pid) from unnest(pg_blocking_pids(o.pid)) as b (pid)
        where h.pid <> all (pg_blocking_pids(o.pid)) and b.pid > 0) as through
from ours o
left join pg_class c on c.oid = o.relation
left join pg_namespace n on n.oid = c.relnamespace
left join lateral (
    select r.pid, p.gid,
           coalesce(nullif(concat_ws(', ', nullif(a.application_name, ''), 'user ' || a.usename), ''), 'user ' || p.owner) as who,
           coalesce(nullif(a.backend_type, 'client backend'), a.state) as state,
           date_part('epoch', clock_timestamp() - coalesce(a.xact_start, p.prepared))::double precision as open_for
    from chain r
    left join pg_stat_activity a on a.pid = r.pid
    left join lateral (
        select p.* from prepared p where r.pid = 0
        order by p.relation is not distinct from o.relation desc, p.transactionid is not distinct from o.transactionid desc, p.prepared
        limit 1
    ) p on true
    where r.ours = o.pid and r.pid <> o.pid and r.pid not in (select w.pid from waits w)
    order by coalesce(a.xact_start, p.prepared) nulls last, r.pid
    limit 1
) h on true

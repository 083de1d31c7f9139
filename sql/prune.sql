-- A step of retention: looks at the next $2 rows past $1 and deletes those that were settled longer than $3 seconds ago, from a
-- table that migrate made, or from any where somebody said how long rows stay ($8).
-- One at a time: $4 is the instance that asks (only the owner of lane 0 may; null: a person may), and an advisory lock of this
-- outbox is held to the end of the statement. Who does not get it looks at nothing. Records a person ($5), the command ($6) and
-- what it was told ($7). Answers with the old rows that are still there (`kept`, the first ten by number): something let the
-- statement do nothing about them.
-- Locks: the rows it deletes, for which it waits a second; nothing that an insert waits for. Index: primary key; for failed
-- rows, theirs. `doomed` is prune_old.sql or prune_unlocked.sql.
-- Law: fenced (a row that is pending by now, because an operator replays it, stays). One clock.
with table_here as materialized (
    select $8::boolean or {made} as ours, set_config('lock_timeout', '1s', true) as patience
), turn as materialized (
    select t.ours, case when t.ours and t.patience is not null
             and ($4::text is null or exists (select from {lanes} l where l.outbox = {table_text} and l.lane = 0 and l.owner = $4))
        then pg_try_advisory_xact_lock(hashtextextended({lock}, 816)) else false end as mine
    from table_here t
), page as materialized (
    select m.{c.seq} as seq, {settled_at} as settled_at
    from {messages} m
    where m.{c.seq} > $1 and {looked_at} and (select t.mine from turn t)
    order by m.{c.seq}
    limit $2
), doomed as materialized (
    {doomed}
), gone as (
    delete from {messages} m
    where m.{c.seq} = any (array(select d.seq from doomed d))
      and {settled_at} < now() - make_interval(secs => $3::double precision)
    returning m.{c.seq} as seq
), kept as materialized (
    select p.seq from page p
    where p.settled_at < now() - make_interval(secs => $3::double precision)
      and not exists (select from gone g where g.seq = p.seq)
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $5::text, $6::uuid, 'prune', $7::text::jsonb, count(*) from gone having count(*) > 0 and $5::text is not null
)
select (select t.mine from turn t) as mine, (select t.ours from turn t) as ours, count(*) as rows, max(p.seq) as upto,
       count(*) filter (where p.settled_at >= now() - make_interval(secs => $3::double precision)) as young,
       (select count(*) from gone) as deleted,
       (select count(*) from kept) as kept, array(select k.seq from kept k order by k.seq limit 10) as kept_first
from page p

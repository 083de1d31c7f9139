-- A step of retention: looks at the next $2 rows past $1 and deletes those that were settled longer than $3 seconds ago.
-- One at a time: $4 is the instance that asks (only the owner of lane 0 may; null: a person may), and an advisory lock of this
-- outbox is held to the end of the statement. Who does not get it looks at nothing. Records a person ($5), the command ($6) and
-- what it was told ($7).
-- Locks: the rows it deletes; nothing that an insert waits for. Index: primary key; for failed rows, theirs.
-- Law: fenced (a row that is pending by now, because an operator replays it, stays). One clock.
with turn as materialized (
    select case when $4::text is null or exists (select from {lanes} l where l.outbox = {table_text} and l.lane = 0 and l.owner = $4)
        then pg_try_advisory_xact_lock(hashtextextended({lock}, 816)) else false end as mine
), page as materialized (
    select m.{c.seq} as seq, {settled_at} as settled_at
    from {messages} m
    where m.{c.seq} > $1 and {looked_at} and (select t.mine from turn t)
    order by m.{c.seq}
    limit $2
), gone as (
    delete from {messages} m
    where m.{c.seq} = any (array(select p.seq from page p where p.settled_at < now() - make_interval(secs => $3::double precision)))
      and {settled_at} < now() - make_interval(secs => $3::double precision)
    returning m.{c.seq}
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $5::text, $6::uuid, 'prune', $7::text::jsonb, count(*) from gone having count(*) > 0 and $5::text is not null
)
select (select t.mine from turn t) as mine, count(*) as rows, max(p.seq) as upto,
       count(*) filter (where p.settled_at >= now() - make_interval(secs => $3::double precision)) as young,
       (select count(*) from gone) as deleted
from page p

-- A step of retention over the history of failed attempts: of the next $3 lines past a position, older than $4 seconds, deletes those
-- whose message is gone. One at a time, as prune.sql.
-- Locks: the lines it deletes, for which it waits a second. Indexes: attempts by time and by seq; primary key of the outbox. One clock.
-- $1 and $2 position of the last line seen (time in microseconds, seq), $5 instance or null, $6 only looks: to step over a line
with turn as materialized (
    select case when set_config('lock_timeout', '1s', true) is not null
             and ($5::text is null or exists (select from {lanes} l where l.outbox = {table_text} and l.lane = 0 and l.owner = $5))
        then pg_try_advisory_xact_lock(hashtextextended({lock}, 816)) else false end as mine
), page as materialized (
    select a.at, a.seq, a.attempt
    from {attempts} a
    where a.outbox = {table_text} and (a.at, a.seq) > (timestamptz 'epoch' + $1::bigint * interval '1 microsecond', $2::bigint)
      and a.at < now() - make_interval(secs => $4::double precision)
      and (select t.mine from turn t)
    order by a.at, a.seq
    limit $3
), gone as (
    delete from {attempts} a
    using page p
    where not $6::boolean and a.outbox = {table_text} and a.seq = p.seq and a.at = p.at and a.attempt = p.attempt
      and not exists (select from {messages} m where m.{c.seq} = a.seq and coalesce(m.{c.id}::text, '') = a.message_id)
    returning a.seq
)
select (select t.mine from turn t) as mine, count(*) as rows, (select count(*) from gone) as deleted,
       (select (extract(epoch from p.at) * 1000000)::bigint from page p order by p.at desc, p.seq desc limit 1) as upto_at,
       (select p.seq from page p order by p.at desc, p.seq desc limit 1) as upto_seq
from page p

-- As failed_discard.sql, of a table that is not ours: deletes failed messages there, and here those that are gone there, and keeps each
-- of them in the audit, whole as it stood there.
-- Locks the rows, briefly: a step is 1,000 rows at most. Indexes: ours, primary key; theirs, the id.
-- Law: Idempotent. A row no longer failed, or another message under its number, is left alone and not counted.
with chosen as materialized (
    select m.{c.seq} as outboxd_seq, m.{c.id} as outboxd_id
    from unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay) join {messages} m on {same_text}
    where m.{c.failed_at} is not null
), theirs as (
    delete from {t.table} t using chosen w where t.{t.id} = w.outboxd_id
    returning w.outboxd_seq, row_to_json(t) as outboxd_whole
), gone as (
    delete from {messages} m using chosen w
    where m.{c.seq} = w.outboxd_seq and m.{c.failed_at} is not null
      and (w.outboxd_seq in (select d.outboxd_seq from theirs d)
        or (select true from {t.table} t where t.{t.id} = w.outboxd_id) is not true)
    returning m.*
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count, detail)
    select {table_text}, $2::text, $3::uuid, 'discard', $4::text::jsonb, 1, coalesce(h.outboxd_whole, row_to_json(g))
    from gone g left join theirs h on h.outboxd_seq = g.{c.seq}
)
select count(*), pg_notify({channel}, '')::text from gone

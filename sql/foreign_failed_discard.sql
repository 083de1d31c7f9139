-- As failed_discard.sql, of a table that is not ours: deletes failed messages there and here, and keeps each of them in the audit, whole
-- as it stood there.
-- Locks the rows, briefly: a step is 1,000 rows at most. Indexes: ours, primary key; theirs, the id.
-- Law: Idempotent. A row no longer failed, or another message under its number, is left alone and not counted.
with gone as (
    delete from {messages} m
    using unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay)
    where {same_text} and m.{c.failed_at} is not null
    returning m.*
), theirs as (
    delete from {t.table} t using gone g where t.{t.id} = g.{c.id} returning g.{c.seq} as seq, row_to_json(t) as whole
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count, detail)
    select {table_text}, $2::text, $3::uuid, 'discard', $4::text::jsonb, 1, coalesce(h.whole, row_to_json(g))
    from gone g left join theirs h on h.seq = g.{c.seq}
)
select count(*), pg_notify({channel}, '')::text from gone

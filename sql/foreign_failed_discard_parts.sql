-- As foreign_failed_discard.sql, for a row ($1 seq, $5 id, $6 replay) that cannot be read as a whole: the audit keeps {parts}.
-- Locks the row, briefly. Indexes: ours, primary key; theirs, the id.
-- Law: Idempotent. A row no longer failed is left alone and not counted.
with gone as (
    delete from {messages} m
    using unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay)
    where {same_text} and m.{c.failed_at} is not null
    returning m.{c.id} as outboxd_id, {parts} as parts
), theirs as (
    delete from {t.table} t using gone g where t.{t.id} = g.outboxd_id
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count, detail)
    select {table_text}, $2::text, $3::uuid, 'discard', $4::text::jsonb, 1, parts from gone
)
select count(*), pg_notify({channel}, '')::text from gone

-- Deletes failed messages ($1) and keeps each of them whole in the audit, with who ($2), command ($3) and filter ($4).
-- Locks the rows, briefly: a step is 1,000 rows at most. Primary key.
-- Law: Idempotent. A row no longer failed is left alone and not counted.
with gone as (
    delete from {messages} m
    where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
    returning m.*
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count, detail)
    select {table_text}, $2::text, $3::uuid, 'discard', $4::text::jsonb, 1, row_to_json(gone) from gone
)
select count(*), pg_notify({channel}, '')::text from gone

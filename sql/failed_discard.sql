-- Deletes failed messages ($1 seqs, $5 ids, $6 replays) and keeps each of them whole in the audit, with who ($2), command ($3) and filter ($4).
-- Locks the rows, briefly: a step is 1,000 rows at most. Primary key.
-- Law: Idempotent. A row no longer failed, or another message under its number, is left alone and not counted.
with gone as (
    delete from {messages} m
    using unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay)
    where {same_text} and m.{c.failed_at} is not null
    returning m.*
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count, detail)
    select {table_text}, $2::text, $3::uuid, 'discard', $4::text::jsonb, 1, row_to_json(gone) from gone
)
select count(*), pg_notify({channel}, '')::text from gone

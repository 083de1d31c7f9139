-- Makes failed messages ($1 seqs, $5 ids, $6 replays) pending again, as if new but due now, which puts them in the waiting index where the relay
-- finds them; `last_error` stays. Records who ($2) by which command ($3) and filter ($4), and wakes the relay.
-- Locks the rows, briefly: a step is 1,000 rows at most. Primary key.
-- Law: Idempotent. A row no longer failed, or another message under its number, is left alone and not counted.
with changed as (
    update {messages} m
    set {c.failed_at} = null, {c.attempt} = 1, {c.available_at} = now(), {c.updated_at} = now()
    from unnest($1::bigint[], $5::text[], $6::int[]) i(seq, id, replay)
    where {same_text} and m.{c.failed_at} is not null
    returning m.{c.seq}
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $2::text, $3::uuid, 'retry', $4::text::jsonb, count(*) from changed having count(*) > 0
)
select count(*), pg_notify({channel}, '')::text from changed

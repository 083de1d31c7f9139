-- Makes relayed messages ($1 seqs, $6 ids, $7 replays) pending again, as if new but due now, which puts them in the waiting index where the relay finds
-- them in seq order: those of one step have the same time, those of the next a later one. `replay` counts up, so that brokers do
-- not take the copy for a duplicate; the history of attempts stays. Records who ($3) by which command ($4) and filter ($5).
-- Locks the rows, briefly: a step is 1,000 rows at most. Primary key.
-- Law: Idempotent. A row not relayed, relayed after the command began ($2) or by now another message is left alone and not counted.
with changed as (
    update {messages} m
    set {c.relayed_at} = null, {c.replay} = coalesce(m.{c.replay}, 0) + 1, {c.attempt} = 1, {c.last_error} = null,
        {c.available_at} = now(), {c.updated_at} = now()
    from unnest($1::bigint[], $6::text[], $7::int[]) i(seq, id, replay)
    where {same_text} and m.{c.relayed_at} <= $2::timestamptz
    returning m.{c.seq}
), audited as (
    insert into {audit} (outbox, who, command, action, filter, count)
    select {table_text}, $3::text, $4::uuid, 'replay', $5::text::jsonb, count(*) from changed having count(*) > 0
)
select count(*), pg_notify({channel}, '')::text from changed

-- As pending.sql, of a table that is not ours: what is not enlisted yet counts too.
-- Locks nothing. Indexes on pending and on waiting rows; the one that finds pending rows in their table. One clock.
select exists (
    select from {messages} m
    where {pending} and {ready} and ($1::text is null or m.{c.topic} = $1)
) or exists (
    select from {messages} m
    where {pending} and {waits} and (m.{c.attempt} > 1 or m.{c.available_at} <= now())
      and ($1::text is null or m.{c.topic} = $1)
) or exists (
    select from {t.table} t
    where {t.pending} and ($1::text is null or {t.topic} = $1)
      and (select m.{c.seq} from {messages} m where m.{c.id} = t.{t.id}) is null
)

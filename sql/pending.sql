-- Whether any message is due, retrying or held: pending, and not delayed. $1: its topic, or null for any.
-- Locks nothing. Indexes on pending and on waiting rows. One clock.
select exists (
    select from {messages} m
    where {pending} and {ready} and ($1::text is null or m.{c.topic} = $1)
) or exists (
    select from {messages} m
    where {pending} and {waits} and (m.{c.attempt} > 1 or m.{c.available_at} <= now())
      and ($1::text is null or m.{c.topic} = $1)
)

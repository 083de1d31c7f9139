-- The message `i` over `m`: number, id and replay. One without an id has none in both.
m.{c.seq} = i.seq and m.{c.id}::text is not distinct from i.id and coalesce(m.{c.replay}, 0) = i.replay

-- What a message is made of, in the order `rows` reads it; payload and headers come from their table (`x`, see `bodies`).
m.{c.id} as id, {known.topic} as topic, {known.key} as key, x.payload as payload, x.headers as headers,
m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay,
least(greatest(m.{c.priority}, 0), 32767)::smallint as priority,
m.{c.inserted_at}::timestamptz as inserted_at, now() as now

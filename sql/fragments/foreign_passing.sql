-- A row the cursor passes ($3: lanes held), without its contents. `state`: 1 to be sent now, 2 waits for a time, 0 neither.
m.{c.seq} as seq, case when {pending} then {lane}::int end as lane, m.{c.id} as id, {known.topic} as topic, {known.key} as key,
m.{c.seq} <> all(u.contents) as known, m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay,
least(greatest(m.{c.priority}, 0), 32767)::smallint as priority,
m.{c.inserted_at}::timestamptz as inserted_at, now() as now, {state}

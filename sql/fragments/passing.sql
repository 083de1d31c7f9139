-- A row the cursor passes ($3: lanes held), and what is brought of it. `state`: 1 to be sent now, 2 waits for a time, 0
-- neither.
m.{c.seq} as seq, case when {pending} then {lane}::int end as lane, {contents}, {state}

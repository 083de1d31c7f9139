-- What the cursor's statements bring of the rows they pass: of those that are to be sent, and still stand so in their table, the
-- contents.
p.seq, p.lane, p.id, case when x.still then p.topic end as topic, case when x.still then p.key end as key,
case when x.still then x.payload end as payload, case when x.still then x.headers end as headers,
p.attempt, p.max_attempts, p.replay, p.priority, p.inserted_at, p.now,
case when p.state = 1 and x.still is not true then 0 else p.state end as state,
case when p.state = 2 then p.available_at end as available_at, p.late

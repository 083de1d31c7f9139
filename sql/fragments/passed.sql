-- What the cursor's statements bring of the rows they pass.
p.seq, p.lane, p.id, case when p.state = 1 then p.topic end as topic,
case when p.state = 1 then p.key end as key, case when p.state = 1 then p.payload end as payload,
case when p.state = 1 then p.headers end as headers, p.attempt, p.max_attempts, p.replay, p.priority,
p.inserted_at, p.now, p.state, case when p.state = 2 then p.available_at end as available_at, p.late

-- Payload and headers of the failed messages among $1, as JSON text: jsonb and json digit for digit, text as a string, bytea
-- as a string of hexadecimal digits.
-- Locks nothing. Primary key.
select m.{c.seq}, coalesce(to_json(m.{c.payload})::text, 'null'), coalesce(to_json(m.{c.headers})::text, 'null')
from {messages} m
where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
order by m.{c.seq}

-- Payload and headers of the failed messages among $1, as JSON text: jsonb and json digit for digit, text as a string, bytea
-- as a string of hexadecimal digits. Columns that cannot be read ($2) are null.
-- Locks nothing. Primary key.
select m.{c.seq}, coalesce(case when 'payload' <> all ($2::text[]) then to_json(m.{c.payload})::text end, 'null'),
       coalesce(case when 'headers' <> all ($2::text[]) then to_json(m.{c.headers})::text end, 'null')
from {whole} m
where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
order by m.{c.seq}

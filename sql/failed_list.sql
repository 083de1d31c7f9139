-- The failed messages among $1, without payload and headers. Times as ISO 8601 text: infinity has no other form.
-- Locks nothing. Primary key.
select m.{c.seq}, m.{c.id}::text, m.{c.topic}, m.{c.key}, m.{c.attempt}, m.{c.max_attempts}, m.{c.priority}::integer,
       m.{c.replay}, to_json(m.{c.failed_at}) #>> '{}', m.{c.last_error}, to_json(m.{c.inserted_at}) #>> '{}',
       to_json(m.{c.updated_at}) #>> '{}',
       greatest(extract(epoch from now() - m.{c.failed_at}), 0)::double precision
from {messages} m
where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
order by m.{c.seq}

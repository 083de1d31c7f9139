-- The failed messages among $1, without payload and headers. Times as ISO 8601 text: infinity has no other form. $2: which columns
-- cannot be read: left out.
-- Locks nothing. Primary key.
select m.{c.seq}, m.{c.id}::text,
       case when 'topic' <> all ($2::text[]) then m.{c.topic} end,
       case when 'key' <> all ($2::text[]) then m.{c.key} end,
       coalesce(m.{c.attempt}, 1), m.{c.max_attempts},
       least(greatest(m.{c.priority}::bigint, -2147483648), 2147483647)::integer, coalesce(m.{c.replay}, 0),
       to_json(m.{c.failed_at}) #>> '{}',
       case when 'last_error' <> all ($2::text[]) then m.{c.last_error} end,
       to_json(m.{c.inserted_at}) #>> '{}', to_json(m.{c.updated_at}) #>> '{}',
       extract(epoch from now() - least(greatest(m.{c.failed_at}, now() - interval '100 years'), now()))::double precision
from {messages} m
where m.{c.seq} = any ($1::bigint[]) and m.{c.failed_at} is not null
order by m.{c.seq}

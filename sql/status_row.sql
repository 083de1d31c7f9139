-- One message, $1, without payload and headers: how it stands, what its time is, and who has its lane. Times as ISO 8601 text.
-- Locks nothing. Primary key. One clock.
select m.{c.id}::text as id, m.{c.topic} as topic, m.{c.key} as key, {lane}::int as lane,
       coalesce(m.{c.attempt}, 1) as attempt, coalesce(m.{c.replay}, 0) as replay,
       to_json(m.{c.relayed_at}) #>> '{}' as relayed_at, to_json(m.{c.failed_at}) #>> '{}' as failed_at,
       m.{c.last_error} as last_error,
       case when {waits} and m.{c.available_at} > now() then to_json(m.{c.available_at}) #>> '{}' end as waits_until,
       extract(epoch from greatest(least(m.{c.available_at}, now() + interval '100 years'), now()) - now())::double precision as waits_for,
       extract(epoch from now() - {due_since})::double precision as due_for,
       l.owner, extract(epoch from i.expires_at - now())::double precision as lease_seconds
from {messages} m
cross join (select null::bigint[] as contents, '{}'::bigint[] as places) u
left join {lanes} l on l.outbox = {table_text} and l.lane = {lane}::int
left join {instances} i on i.outbox = {table_text} and i.instance = l.owner
where m.{c.seq} = $1

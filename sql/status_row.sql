-- One message, the only one of $1, without payload and headers: how it stands, what its time is, and who has its lane. Times as ISO
-- 8601 text. $2: which columns cannot be read: left out, as a topic or key is that is longer than anybody means.
-- Locks nothing. Primary key. One clock.
select m.{c.id}::text as id,
       case when 'topic' <> all ($2::text[]) and octet_length(m.{c.topic}) <= 65536 then m.{c.topic} end as topic,
       case when 'key' <> all ($2::text[]) and octet_length(m.{c.key}) <= 4194304 then m.{c.key} end as key,
       case when m.{c.topic} is null then 'it has no topic'
            when 'topic' = any ($2::text[]) or 'key' = any ($2::text[]) then 'its topic or key cannot be read'
            when octet_length(m.{c.topic}) > 65536 or octet_length(m.{c.key}) > 4194304 then 'its topic or key is too long' end
         as unreadable,
       {lane}::int as lane, coalesce(m.{c.attempt}, 1) as attempt, coalesce(m.{c.replay}, 0) as replay,
       to_json(m.{c.relayed_at}) #>> '{}' as relayed_at, to_json(m.{c.failed_at}) #>> '{}' as failed_at,
       case when 'last_error' <> all ($2::text[]) then left(m.{c.last_error}, 1000) end as last_error,
       {waits} as waited,
       case when {waits} and m.{c.available_at} > now() then to_json(m.{c.available_at}) #>> '{}' end as waits_until,
       m.{c.available_at} = 'infinity' as waits_for_ever,
       extract(epoch from greatest(least(m.{c.available_at}, now() + interval '100 years'), now()) - now())::double precision as waits_for,
       extract(epoch from now() - {due_since})::double precision as due_for,
       l.owner, extract(epoch from i.expires_at - now())::double precision as lease_seconds
from {messages} m
cross join (select '{}'::bigint[] as contents,
                   case when 'topic' = any ($2::text[]) or 'key' = any ($2::text[]) then $1::bigint[] else '{}' end as places) u
left join {lanes} l on l.outbox = {table_text} and l.lane = {lane}::int
left join {instances} i on i.outbox = {table_text} and i.instance = l.owner
where m.{c.seq} = any ($1::bigint[])

-- Which of these rows still hold their key. Of a long key, which would be read whole each second, the row is enough: not even its
-- lane is asked for.
-- Locks nothing. Index: primary key.
-- $1 lanes held, one bit each, $2 seqs, $3 and $4 rows that cannot be read (see unreadable.rs)
select m.{c.seq} as seq, case when s.short then {lane}::int else 0 end as lane, {known.topic} as topic,
  case when s.short then {key_id} end as key_id, m.{c.failed_at} is not null as failed
from {messages} m
cross join (select $3::bigint[] as contents, $4::bigint[] as places) u
cross join lateral (select octet_length(m.{c.key}) <= 4096 as short) s
where m.{c.seq} = any($2::bigint[]) and m.{c.relayed_at} is null and (m.{c.failed_at} is not null or {waits})
  and m.{c.key} is not null
  and (u.places is null or case when s.short then get_bit($1::bytea, {lane}::int) = 1 else true end)

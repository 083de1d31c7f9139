-- For how long the oldest due message has been due, in seconds: of those that never waited for a time, the first one not
-- held ($1 topics, $2 hashes of keys, $3 seqs: the holders; $4 paused topics), and of those that did, the one due first.
-- Locks nothing. Indexes on pending and on waiting rows. Without holders and paused topics no topic and no key is looked at.
select greatest(extract(epoch from now() - least(
    (select {due_since} from {messages} m
     -- Made once for a message, not for each holder.
     cross join lateral (select case when cardinality($1::text[]) > 0 then {key_hash} end as hash offset 0) k
     where {pending} and {ready} and (cardinality($4::text[]) = 0 or coalesce(m.{c.topic} <> all ($4::text[]), true))
       and (k.hash is null or not exists (
           select from unnest($1::text[], $2::bigint[], $3::bigint[]) as h (topic, hash, seq)
           where h.topic = m.{c.topic} and h.hash = k.hash and h.seq < m.{c.seq}))
     order by m.{c.seq} limit 1),
    (select {due_since} from {messages} m
     where {pending} and {waits} and m.{c.available_at} <= now()
       and (cardinality($4::text[]) = 0 or coalesce(m.{c.topic} <> all ($4::text[]), true))
     order by m.{c.available_at}, m.{c.seq} limit 1)
)), 0)::double precision

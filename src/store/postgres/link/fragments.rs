//! What several statements have in common, by the names of `sql`'s placeholders.

/// What the cursor's statements bring of the rows they pass.
pub(super) const PASSED: &str = "p.seq, p.lane, p.id, case when p.state = 1 then p.topic end as topic, \
    case when p.state = 1 then p.key end as key, case when p.state = 1 then p.payload end as payload, \
    case when p.state = 1 then p.headers end as headers, p.attempt, p.max_attempts, p.replay, \
    p.inserted_at, p.now, p.state, case when p.state = 2 then p.available_at end as available_at, p.late";

/// The sequence that gives `seq` its numbers: the one its default names, which need not be the one it owns, or its identity's.
pub(super) const SEQUENCE: &str = "coalesce((select d.refobjid from pg_attrdef f \
     join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum and a.attname = {seq_text} \
     join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass \
     join pg_class c on c.oid = d.refobjid and c.relkind = 'S' \
     where f.adrelid = to_regclass({messages_text}) limit 1), \
    pg_get_serial_sequence({messages_text}, {seq_text})::regclass::oid)";

/// What a message is made of, in the order `rows` reads it; of rows that cannot be read, and where the list is null, nothing of
/// any length.
pub(super) const CONTENTS: &str = "m.{c.id} as id, {known.topic} as topic, {known.key} as key, {known.payload} as payload, \
    {known.headers} as headers, m.{c.attempt} as attempt, m.{c.max_attempts} as max_attempts, m.{c.replay} as replay, \
    m.{c.inserted_at}::timestamptz as inserted_at, now() as now";

/// What a row is to the cursor.
pub(super) const STATE: &str = ", m.{c.available_at}::timestamptz as available_at, case when not ({pending}) then 0 \
    when u.places is not null and get_bit($3::bytea, {lane}::int) = 0 then 0 when {ready} then 1 else 2 end as state";

/// What `message::KeyId` is made of: nothing of a row without a key, or that cannot be read. `format` writes what is read, where
/// a cast takes the spaces off a `character(n)`; `textsend` is what goes over the wire, text or not. An application's functions of
/// these names would fit better than the server's.
pub(super) const KEY_ID: &str = "case when m.{c.seq} <> all(u.contents) and m.{c.key} is not null \
    then substring(pg_catalog.sha256(pg_catalog.textsend(pg_catalog.format('%s', m.{c.topic})) \
    || pg_catalog.decode('00', 'hex') || pg_catalog.textsend(pg_catalog.format('%s', m.{c.key}))) for 16) end";

/// The same for people's counts: of a long key its length and beginning are enough, and nothing else of it is read.
pub(super) const KEY_HASH: &str = "hashtextextended(case when octet_length(m.{c.key}) <= 4096 then m.{c.key} \
    else left(m.{c.key}, 1000) end, hashtextextended(m.{c.topic}, octet_length(m.{c.key})))";

/// A row without a topic, and one whose topic or key cannot be read, has the lane of its number.
pub(super) const LANE: &str = "((coalesce(case when m.{c.key} is not null and m.{c.seq} <> all(u.places) \
    then hashtextextended(m.{c.key}, hashtextextended(m.{c.topic}, 0)) end, hashint8extended(m.{c.seq}, 0)) \
    & 9223372036854775807) % {lanes_count})";

/// To be sent now. A row that was due when it was committed waits for nothing, though its application's clock made it look delayed.
/// Nulls decide nothing. Without `inserted_at` a delayed row is in no index of those that wait: it is passed until its time.
/// The clock is read past the snapshot: what was committed by then is never a moment too early.
pub(super) const READY: &str = "(({waiting} and m.{c.available_at} is not null) is not true \
    and (m.{c.inserted_at} is not null or coalesce(m.{c.available_at} <= clock_timestamp(), true)) \
    or (coalesce(m.{c.attempt}, 1) <= 1 and coalesce(m.{c.replay}, 0) <= 0 and m.{c.available_at} <= clock_timestamp()))";

/// No time before 1970 is one that anybody means; and the server subtracts no infinite ones.
pub(super) const DUE_SINCE: &str = "least(greatest(coalesce(case when m.{c.available_at} > timestamptz 'epoch' then m.{c.available_at} \
    else m.{c.inserted_at} end, now()), now() - interval '100 years'), now())";

/// Of the statements that end messages: one of those whose bit is set in $1, which begins with $7 and ends with $8, and whose
/// id is the one in its place in $9. An index into an array costs less than any way to take 16 bytes out of many.
pub(super) const AMONG: &str = "m.{c.seq} between $7 and $8 \
    and case when m.{c.seq} between $7 and $8 then get_bit($1::bytea, (m.{c.seq} - $7)::int) = 1 \
    and m.{c.id} = ($9::uuid[])[(m.{c.seq} - $7 + 1)::int] and coalesce(m.{c.replay}, 0) = 0 end";

/// Of the same, a filter that is evaluated once, before any row is touched: every lane ($2, at epoch $3) is still held by
/// instance $4; how durable the commit is ($5); and how long a lock is waited for ($6).
pub(super) const FENCED: &str = "(select count(*) from {lanes} l \
    join unnest($2::int[], $3::bigint[]) e(lane, epoch) on e.lane = l.lane and e.epoch = l.epoch \
    where l.outbox = {table_text} and l.owner = $4) = cardinality($2::int[]) \
    and (select set_config('synchronous_commit', coalesce($5::text, current_setting('synchronous_commit')), true)) \
    is not null and (select set_config('lock_timeout', $6::text, true)) is not null";

/// The message `i` over `m`: number, id and replay. One without an id has none in both.
pub(super) const SAME_TEXT: &str =
    "m.{c.seq} = i.seq and m.{c.id}::text is not distinct from i.id and coalesce(m.{c.replay}, 0) = i.replay";

/// The same of the lists $1, $7 and $8, which are in the order of the numbers. No join: a plan made for one while the table was small,
/// and kept, reads all of it for each statement when it has grown.
pub(super) const LISTED: &str = "m.{c.seq} = any($1::bigint[]) \
    and m.{c.id} is not distinct from ($7::uuid[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])] \
    and coalesce(m.{c.replay}, 0) = ($8::int[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]";
pub(super) const LISTED_TEXT: &str = "m.{c.seq} = any($1::bigint[]) \
    and m.{c.id}::text is not distinct from ($7::text[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])] \
    and coalesce(m.{c.replay}, 0) = ($8::int[])[width_bucket(m.{c.seq}::bigint, $1::bigint[])]";

/// Whether migrate made the outbox's table, whatever its version, whoever ran its SQL, restored from a dump or not: an ordinary
/// table with the check it makes, by its name and over the same two columns.
pub(super) const MADE: &str = "exists (select from pg_constraint k join pg_class t on t.oid = k.conrelid \
    where k.conrelid = to_regclass({messages_text}) and t.relkind = 'r' and k.contype = 'c' and k.conname = {name_text.state} \
    and cardinality(k.conkey) = 2 \
    and (select count(*) from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey) \
         and a.attname in ({text.relayed_at}, {text.failed_at})) = 2)";

/// What the statements that settle have in common.
pub(super) fn of_settling(name: &str) -> Option<&'static str> {
    Some(match name {
        "among" => AMONG,
        "fenced" => FENCED,
        "listed" => LISTED,
        "listed_text" => LISTED_TEXT,
        "same_text" => SAME_TEXT,
        _ => return None,
    })
}

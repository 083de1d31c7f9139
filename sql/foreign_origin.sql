-- What tells this outbox from any other, for brokers that know messages by an id: where it is, and since when. The ids of a table that is
-- not ours need not be any others than those of the next.
-- Locks nothing; reads a small table.
select encode(substring(sha256(convert_to(format('%s/%s/%s', current_database(), {messages_text},
    (select extract(epoch from min(m.applied_at)) from {migrations} m where m.outbox = {table_text})), 'UTF8')) for 6), 'hex') as origin

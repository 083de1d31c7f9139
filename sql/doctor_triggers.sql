-- Triggers on the outbox: which, how they are enabled ('O' as usual, 'D' not), and what they call.
-- Locks nothing; reads the catalog.
select t.tgname::text as name, t.tgenabled::text as enabled, t.tgfoid::regproc::text as function, t.tgname = 'outboxd_wake' as is_wake
from pg_trigger t
where t.tgrelid = {messages_text}::regclass and not t.tgisinternal
order by t.tgname

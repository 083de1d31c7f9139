-- Whether what is to be set in a table can be prepared. Nothing is run.
-- Locks nothing.
update {messages} t set {expression}
from (select null::int as outboxd_attempt, null::text as outboxd_error, null::timestamptz as outboxd_retry_at) w

-- The files applied to this outbox so far, oldest first. A missing table is for the caller to look for first.
select version, name, checksum, applied_at::text, outbox from {migrations} where outbox = {table_text} order by version

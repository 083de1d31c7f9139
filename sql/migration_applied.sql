-- The files applied so far, oldest first. A missing table is for the caller to look for first.
select version, name, checksum, applied_at::text, outbox from {migrations} order by version

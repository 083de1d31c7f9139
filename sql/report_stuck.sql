-- Writes down which messages this instance knows to be stuck, for `status` to read, and when; none: forgets them.
-- Locks its own row of the small service table. Primary key. Never counts as a renewal. One clock.
-- $1 instance, $2 session, $3 the list as JSON; null: none
update {instances} i
set stuck = $3::text::jsonb || jsonb_build_object('at', date_part('epoch', now()))
where i.outbox = {table_text} and i.instance = $1 and i.session = $2

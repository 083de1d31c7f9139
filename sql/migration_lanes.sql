-- Every migration run does this before its files and at its end: lanes that were deleted are put back, and a configuration that
-- divides otherwise is refused. The division is fixed per table.
--
-- Locks: the rows it makes.
-- Law: no epoch of a lane comes again. See restore_lanes.sql; 0002 begins at 0, so this comes before it.
do $$
declare
    divided integer;
begin
    -- There are none yet, or they are still to be told apart by outbox.
    if to_regclass({instances_text}) is null or not exists (
        select from pg_attribute where attrelid = to_regclass({lanes_text}) and attname = 'outbox' and not attisdropped)
    then
        return;
    end if;
    if exists (select from {migrations}) and not exists (select from {migrations} where outbox = {table_text} and version >= 7) then
        return;
    end if;
    divided := coalesce(greatest(
        (select max(l.lane) + 1 from {lanes} l where l.outbox = {table_text}),
        (select max(i.lanes) from {instances} i where i.outbox = {table_text} and i.expires_at > now())),
        {lanes_count});
    if divided <> {lanes_count} then
        raise exception 'outbox.lanes is {lanes_count}, but the outbox is divided into %: set outbox.lanes = %', divided, divided
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if (select count(*) from {lanes} l where l.outbox = {table_text}) < divided then
        insert into {lanes} (outbox, lane, epoch)
        select {table_text}, g.lane, greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint,
            (select max(l.epoch) + 1 from {lanes} l where l.outbox = {table_text}))
        from generate_series(0, divided - 1) as g (lane)
        on conflict do nothing;
    end if;
end
$$;

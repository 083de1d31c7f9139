-- What every migration run ends with: the division into lanes is fixed per table, and a different configuration is refused.
do $$
begin
    if (select count(*) from {lanes} where outbox = {table_text}) <> {lanes_count} then
        raise exception 'outbox.lanes is {lanes_count}, but the outbox is divided into %: set outbox.lanes = %',
            (select count(*) from {lanes} where outbox = {table_text}), (select count(*) from {lanes} where outbox = {table_text})
            using errcode = 'object_not_in_prerequisite_state';
    end if;
end
$$;

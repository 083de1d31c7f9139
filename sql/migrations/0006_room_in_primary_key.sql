-- Room in the primary key's pages for the second version of each row, which marking it relayed writes: else every page is
-- split when its rows are marked. In the end the index is as large either way.
--
-- Locks: none that inserts or reads wait for. Pages that are there stay as they are; of a table made by hand only a primary
-- key over the number alone, left at its defaults.

do $$
declare
    index text;
begin
    select c.oid::regclass into index
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = {messages_text}::regclass and i.indisprimary and i.indnatts = 1
      and a.attname = {text.seq} and c.relkind = 'i' and c.reloptions is null;
    if index is not null then
        execute format('alter index %s set (fillfactor = 45)', index);
    end if;
end
$$;

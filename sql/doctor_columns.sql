-- Columns of the outbox that may be null although a null in them keeps a message from being sent, or from being sent in time.
-- Locks nothing; reads the catalog.
select array(
    select a.attname::text
    from pg_attribute a
    where a.attrelid = {messages_text}::regclass and a.attnum > 0 and not a.attisdropped and not a.attnotnull
      and a.attname = any (array[{text.id}, {text.topic}, {text.payload}, {text.inserted_at}, {text.available_at},
          {text.attempt}, {text.replay}])
    order by a.attnum
) as columns

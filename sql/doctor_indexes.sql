-- Valid indexes of ours that are made of something else than `migrate` makes them of: how they are, and how they should be.
-- Locks nothing; reads the catalog.
with wanted (name, columns, predicate) as (
    values
        ({name_text.pending}, array[{text.seq}],
         format('((%I IS NULL) AND (%I IS NULL))', {text.relayed_at}, {text.failed_at})),
        ({name_text.waiting}, array[{text.available_at}, {text.seq}],
         format('((%I IS NULL) AND (%I IS NULL) AND ((%I > 1) OR (%I > 0) OR (%I > %I)))', {text.relayed_at}, {text.failed_at},
                {text.attempt}, {text.replay}, {text.available_at}, {text.inserted_at})),
        ({name_text.failed}, array[{text.seq}], format('(%I IS NOT NULL)', {text.failed_at})),
        ({name_text.priority}, array[{text.priority}, {text.seq}],
         format('((%I IS NULL) AND (%I IS NULL) AND (%I > 0))', {text.relayed_at}, {text.failed_at}, {text.priority}))
), found as (
    select w.name, i.indexrelid, w.columns, w.predicate,
           array(select a.attname::text from unnest(i.indkey::smallint[]) with ordinality k (number, place)
                 left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number order by k.place) as has_columns,
           pg_get_expr(i.indpred, i.indrelid) as has_predicate,
           i.indrelid = {messages_text}::regclass as is_ours
    from wanted w
    join pg_index i on i.indexrelid = to_regclass(format('%I.%I', {schema_text}, w.name)) and i.indisvalid
)
select f.name, pg_get_indexdef(f.indexrelid) as definition,
       format('(%s) where %s', (select string_agg(quote_ident(c), ', ') from unnest(f.columns) c), f.predicate) as wanted
from found f
where not f.is_ours or f.has_columns <> f.columns or f.has_predicate is distinct from f.predicate

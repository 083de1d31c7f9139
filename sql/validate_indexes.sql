-- Which of the outbox's own indexes are missing, or were left invalid by a build that failed.
-- Locks nothing; reads the catalog.
select w.name, i.indexrelid is not null
from unnest(array[{name_text.pending}, {name_text.waiting}, {name_text.failed}, {name_text.priority}]) as w (name)
left join pg_index i on i.indexrelid = to_regclass(format('%I.%I', {schema_text}, w.name))
where i.indexrelid is null or not i.indisvalid

-- Tables of an outbox that are gone.
-- Locks nothing; reads the catalog.
select t.name
from unnest(array[{rows_text}, 'outboxd_lanes', 'outboxd_instances', 'outboxd_attempts', 'outboxd_audit', 'outboxd_paused',
    'outboxd_questions'])
  with ordinality as t (name, place)
where to_regclass(format('%I.%I', {schema_text}, t.name)) is null
order by t.place

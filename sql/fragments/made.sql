-- Whether migrate made the outbox's table, whatever its version, whoever ran its SQL, restored from a dump or not: an
-- ordinary table with the check it makes, by its name and over the same two columns.
exists (select from pg_constraint k join pg_class t on t.oid = k.conrelid
where k.conrelid = to_regclass({messages_text}) and t.relkind = 'r' and k.contype = 'c' and k.conname = {name_text.state}
and cardinality(k.conkey) = 2
and (select count(*) from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)
and a.attname in ({text.relayed_at}, {text.failed_at})) = 2)

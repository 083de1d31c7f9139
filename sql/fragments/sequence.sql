-- The sequence that gives `seq` its numbers: the one its default names, which need not be the one it owns, or its
-- identity's.
coalesce((select d.refobjid from pg_attrdef f
join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum and a.attname = {seq_text}
join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass
join pg_class c on c.oid = d.refobjid and c.relkind = 'S'
where f.adrelid = to_regclass({messages_text}) limit 1),
pg_get_serial_sequence({messages_text}, {seq_text})::regclass::oid)

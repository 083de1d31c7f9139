-- Whether anything was ever migrated here. Reads the catalog only.
select to_regclass(format('%I.outboxd_migrations', {schema_text})) is not null

-- What is to be known of the outbox's table beside its columns. `pages` is its size now, `rows` the planner's idea of it.
-- Locks nothing; reads the catalog and the statistics.
select c.relpersistence = 'u' as unlogged,
       c.reltuples::double precision as rows,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint as pages,
       coalesce(s.n_dead_tup, 0) as dead,
       coalesce(s.n_live_tup, 0) as live,
       exists (select from pg_options_to_table(c.reloptions) o
               where o.option_name = 'autovacuum_enabled' and o.option_value::boolean = false) as autovacuum_off,
       coalesce((select o.option_value::double precision from pg_options_to_table(c.reloptions) o
                 where o.option_name = 'autovacuum_vacuum_scale_factor'),
                current_setting('autovacuum_vacuum_scale_factor')::double precision) as scale_factor,
       exists (select from pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null
                 and i.indnkeyatts = 1
                 and i.indkey[0] = (select a.attnum from pg_attribute a where a.attrelid = c.oid and a.attname = {seq_text})) as has_key
from pg_class c
left join pg_stat_user_tables s on s.relid = c.oid
where c.oid = {messages_text}::regclass

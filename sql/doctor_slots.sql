-- Replication slots that keep much WAL ($1 bytes) or an old snapshot ($2 transactions).
-- Locks nothing; reads the server's state. Not on a standby.
select s.slot_name::text as name, s.active, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint as held,
       coalesce(greatest(age(s.xmin), age(s.catalog_xmin)), 0)::bigint as behind
from pg_replication_slots s
where pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) > $1::bigint or greatest(age(s.xmin), age(s.catalog_xmin)) > $2::bigint
order by 3 desc
limit 5

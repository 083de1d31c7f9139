-- One column of row $1, to see whether it can be read. The column is put in by `unreadable`.
-- Locks nothing. Primary key.
select {column} from {whole} m cross join (select '{}'::bigint[] as places) u where m.{c.seq} = $1

-- For people: numbers for a table without rewriting it, and the index for the looks. The writers need the right to use the sequence.
create sequence {sequence}; alter table {table} add column seq bigint; alter table {table} alter column seq set default nextval('{sequence}');
create index concurrently on {table} (seq); grant usage on sequence {sequence} to <the application's roles>

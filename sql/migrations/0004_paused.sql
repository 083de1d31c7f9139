-- Topics whose messages are held back by an operator (`outboxd pause`).
--
-- Locks: only the table it creates. A few rows; every instance reads them whenever it renews its lease.

create table if not exists {paused} (
    topic text primary key,
    at    timestamptz not null default now(),
    who   text not null
);

-- What the daemon and its operators keep beside the outbox: lanes, instances, failed attempts, audit.
--
-- Locks: only tables it creates. Few rows, rarely written; still they suffer from a held snapshot, so the two that are
-- updated regularly leave room for HOT updates and are vacuumed early.

-- Who owns which share of the work. `epoch` is raised by every take-over; what an earlier owner writes no longer matches.
create table if not exists {lanes} (
    lane  integer primary key check (lane >= 0),
    owner text,
    epoch bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The number of lanes is fixed per table: an existing division is kept, and compared with the configuration afterwards.
insert into {lanes} (lane)
select lane from generate_series(0, {lanes_count} - 1) as lane
where not exists (select from {lanes});

-- Live instances, and until when the database believes in them.
create table if not exists {instances} (
    instance   text primary key,
    session    uuid not null,
    machine    text not null,
    version    text,
    lanes      integer,
    started_at timestamptz not null default now(),
    renewed_at timestamptz not null default now(),
    expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Failed attempts only: rejections included, outages not. `message_id` is text because a foreign table may number its
-- messages. No foreign key: history outlives the row, and a key would lock it.
create table if not exists {attempts} (
    seq        bigint not null,
    message_id text not null,
    attempt    integer not null,
    at         timestamptz not null default now(),
    instance   text,
    class      text not null,
    code       text not null,
    error      text,
    latency_ms double precision
);
create index if not exists outboxd_attempts_seq on {attempts} (seq);
create index if not exists outboxd_attempts_at on {attempts} (at);

-- What people did; only ever inserted into. One row for each step of a bulk command (its steps share `command`), and one
-- for each discarded message. `detail` is json, not jsonb: a discarded row is kept as it was, key order and all.
create table if not exists {audit} (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default now(),
    who     text not null,
    role    text not null default current_user,
    command uuid not null default gen_random_uuid(),
    action  text not null,
    filter  jsonb not null default '{}',
    count   bigint not null,
    detail  json
);

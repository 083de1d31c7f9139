//! Tables of other frameworks, as each makes and fills them: queues, flags, rows that are deleted.

use super::framework::{First, Framework};

/// django-outbox-pattern: states as numbers below and above 0, a time of expiry.
#[tokio::test]
async fn django_with_scheduled_messages() {
    Framework {
        table: "django_outbox_pattern_published",
        ddl: "
create table django_outbox_pattern_published (id uuid not null primary key, body jsonb not null, headers jsonb not null, destination varchar(255) not null,
  version varchar(100) not null, added timestamp with time zone not null, expires_at timestamp with time zone not null,
  retry smallint not null check (retry >= 0), status smallint not null);
create index django_outbox_pattern_published_status_idx on django_outbox_pattern_published (status, added);",
        config: r#"
[outbox]
table = "django_outbox_pattern_published"
[outbox.columns]
topic = "destination"
payload = "body"
attempt = { sql = "t.retry + 1" }
inserted_at = "added"
[outbox.state]
pending = "t.status = 1"
relayed = "status = 2, expires_at = :now + interval '15 days'"
retrying = "retry = :attempt - 1"
failed = "status = -1, retry = :attempt - 1"
retried = "status = 1, retry = 0"
"#,
        subjects: &["queue.>"],
        fill: r#"insert into django_outbox_pattern_published select gen_random_uuid(), jsonb_build_object('n', g), '{"dop-msg-id": "x"}', 'queue.orders', '0', clock_timestamp(),
  now() + interval '1 day', 0, 1 from generate_series(1, 5) g"#,
        poison: "insert into django_outbox_pattern_published values (gen_random_uuid(), '{}', '{}', '/queue/my orders', '0', now(), now() + interval '1 day', 0, 1)",
        mend: "update django_outbox_pattern_published set destination = 'queue.orders' where status = -1",
        relayed: "select count(*) from django_outbox_pattern_published where status = 2 and expires_at > now() + interval '14 days' ",
        failed: "select count(*) from django_outbox_pattern_published where status = -1 and retry = 1",
        first: First {
            key: None,
            header: Some(("dop-msg-id", "x")),
            body: r#"{"n": 1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// faststream-outbox: a queue with leases, whose rows are deleted; they cannot say that they failed.
#[tokio::test]
async fn faststream_whose_rows_are_deleted() {
    Framework {
        table: "outbox",
        ddl: "
create table outbox (id bigserial not null, queue varchar(255) not null, payload bytea not null, headers jsonb, attempts_count integer default 0 not null,
  deliveries_count integer default 0 not null, created_at timestamp with time zone default now() not null,
  next_attempt_at timestamp with time zone default now() not null, first_attempt_at timestamp with time zone, last_attempt_at timestamp with time zone,
  acquired_token uuid, acquired_at timestamp with time zone, constraint outbox_pkey primary key (id));
create index outbox_queue_next_attempt_at_idx on outbox (queue, next_attempt_at) where acquired_token is null;",
        config: r#"
[outbox]
table = "outbox"
on_relayed = "delete"
[outbox.columns]
seq = "id"
topic = "queue"
available_at = "next_attempt_at"
inserted_at = "created_at"
"#,
        subjects: &["orders.>"],
        fill: r#"create table inserted (n int); insert into outbox (queue, payload, headers) select 'orders.placed', convert_to('{"n":' || g || '}', 'UTF8'), '{"content-type": "application/json"}'
  from generate_series(1, 5) g; insert into inserted values (5)"#,
        poison: r#"insert into outbox (queue, payload) values ('orders placed', '\x00'); insert into inserted values (1)"#,
        mend: "update outbox set queue = 'orders.placed' ",
        relayed: "select (select sum(n) from inserted) - (select count(*) from outbox)",
        failed: "",
        first: First {
            key: None,
            header: Some(("content-type", "application/json")),
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// The table of the .NET tutorials, every name with capitals; an error, but no failure.
#[tokio::test]
async fn the_net_tutorial_with_capitals() {
    Framework {
        table: "OutboxMessages",
        ddl: r#"
create table "OutboxMessages" ("Id" uuid not null, "Type" character varying(255) not null, "Content" jsonb not null,
  "OccurredOnUtc" timestamp with time zone not null, "ProcessedOnUtc" timestamp with time zone, "Error" text,
  constraint "PK_OutboxMessages" primary key ("Id"));
create index "IX_OutboxMessages_Unprocessed" on "OutboxMessages" ("OccurredOnUtc", "ProcessedOnUtc") include ("Id", "Type", "Content")
  where "ProcessedOnUtc" is null;"#,
        config: r#"
[outbox]
table = "OutboxMessages"
[outbox.columns]
id = "Id"
topic = "Type"
payload = "Content"
relayed_at = "ProcessedOnUtc"
last_error = "Error"
inserted_at = "OccurredOnUtc"
"#,
        subjects: &["Ordering.>"],
        fill: r#"insert into "OutboxMessages" select gen_random_uuid(), 'Ordering.OrderPlaced', jsonb_build_object('n', g), clock_timestamp(), null, null from generate_series(1, 5) g"#,
        poison: r#"insert into "OutboxMessages" values (gen_random_uuid(), 'Ordering.Order Placed', '{}', now(), null, null)"#,
        mend: r#"update "OutboxMessages" set "Type" = 'Ordering.OrderPlaced' where "Error" is not null"#,
        relayed: r#"select count(*) from "OutboxMessages" where "ProcessedOnUtc" is not null"#,
        failed: r#"select count(*) from "OutboxMessages" where "ProcessedOnUtc" is null and "Error" is not null"#,
        first: First {
            key: None,
            header: None,
            body: r#"{"n": 1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// A home-made table with a flag.
#[tokio::test]
async fn a_home_made_flag() {
    Framework {
        table: "events",
        ddl: "
create table events (id bigserial primary key, aggregate_type text not null, aggregate_id text not null, event_type text not null, payload jsonb not null,
  published boolean not null default false, published_at timestamp, created_at timestamp not null default now());
create index events_unpublished on events (id) where not published;",
        config: r#"
[outbox]
table = "events"
[outbox.columns]
seq = "id"
topic = { sql = "t.aggregate_type || '.' || t.event_type" }
key = "aggregate_id"
relayed_at = "published_at"
inserted_at = "created_at"
[outbox.state]
pending = "not t.published"
relayed = "published = true, published_at = :now"
"#,
        subjects: &["order.>"],
        fill: "insert into events (aggregate_type, aggregate_id, event_type, payload) select 'order', '42', 'placed', jsonb_build_object('n', g) from generate_series(1, 5) g",
        poison: "insert into events (aggregate_type, aggregate_id, event_type, payload) values ('order', '42', 'has been placed', '{}')",
        mend: "update events set event_type = 'placed' where not published",
        relayed: "select count(*) from events where published and abs(extract(epoch from published_at - now() at time zone 'utc')) < 60",
        failed: "",
        first: First {
            key: Some("42"),
            header: None,
            body: r#"{"n": 1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// Oban: states of an enumeration, attempts from 0 within a check, errors as an array, a trigger that notifies, one queue of several.
#[tokio::test]
async fn a_queue_of_oban_that_oban_does_not_run() {
    Framework {
        table: "oban_jobs",
        ddl: "
create type oban_job_state as enum ('available', 'scheduled', 'executing', 'retryable', 'completed', 'discarded', 'cancelled');
create table oban_jobs (id bigserial primary key, state oban_job_state not null default 'available', queue text not null default 'default',
  worker text not null, args jsonb not null default '{}', errors jsonb[] not null default array[]::jsonb[], attempt integer not null default 0,
  max_attempts integer not null default 20, inserted_at timestamp without time zone not null default timezone('UTC', now()),
  scheduled_at timestamp without time zone not null default timezone('UTC', now()), attempted_at timestamp without time zone,
  completed_at timestamp without time zone, attempted_by text[], discarded_at timestamp without time zone, priority integer not null default 0,
  tags text[] default array[]::text[], meta jsonb default '{}', cancelled_at timestamp without time zone,
  constraint attempt_range check (attempt between 0 and max_attempts), constraint positive_max_attempts check (max_attempts > 0),
  constraint queue_length check (char_length(queue) > 0 and char_length(queue) < 128));
create index oban_jobs_state_queue_priority_scheduled_at_id_index on oban_jobs (state, queue, priority, scheduled_at, id);
create function oban_jobs_notify() returns trigger language plpgsql as $$
  begin perform pg_notify('oban_insert', new.queue); return null; end $$;
create trigger oban_notify after insert on oban_jobs for each row execute function oban_jobs_notify();",
        config: r#"
[outbox]
table = "oban_jobs"
[outbox.columns]
seq = "id"
topic = { sql = "'jobs.' || t.worker" }
key = { sql = "t.args ->> 'account'" }
payload = "args"
headers = "meta"
attempt = { sql = "t.attempt + 1" }
priority = ""
available_at = "scheduled_at"
relayed_at = "completed_at"
[outbox.state]
pending = "t.queue = 'outbox' and t.state in ('available', 'scheduled', 'retryable')"
relayed = "state = 'completed', completed_at = :now, attempt = t.attempt + 1"
retrying = "state = 'retryable', attempt = :attempt - 1, scheduled_at = :retry_at, errors = errors || jsonb_build_object('at', :now, 'error', :error)"
failed = "state = 'discarded', discarded_at = :now, attempt = :attempt - 1, errors = errors || jsonb_build_object('at', :now, 'error', :error)"
retried = "state = 'available', attempt = 0, discarded_at = null, scheduled_at = :now"
"#,
        subjects: &["jobs.>"],
        fill: r#"insert into oban_jobs (queue, worker, args, meta) select q, 'Mailer', jsonb_build_object('n', g, 'account', 'a1'), '{"by": "web"}'
  from generate_series(1, 5) g, unnest(array['default', 'outbox']) q order by g"#,
        poison: "insert into oban_jobs (queue, worker, max_attempts) values ('outbox', 'No Mailer', 1)",
        mend: "update oban_jobs set worker = 'Mailer' where worker = 'No Mailer' ",
        relayed: "select count(*) from oban_jobs where state = 'completed' and attempt = 1 and completed_at is not null
  and (select count(*) from oban_jobs where state = 'available' and queue = 'default') = 5",
        failed: "select count(*) from oban_jobs where state = 'discarded' and attempt = 1 and cardinality(errors) = 1 and discarded_at is not null",
        first: First {
            key: Some("a1"),
            header: Some(("by", "web")),
            body: r#"{"n": 1, "account": "a1"}"#,
        },
    }
    .is_relayed()
    .await;
}

/// watermill: a table for a topic, whose key is of two columns; with a unique index on the second it serves. Its rows are deleted.
#[tokio::test]
async fn watermill_with_an_index_on_its_offset() {
    Framework {
        table: "watermill_orders",
        ddl: r#"
create table watermill_orders ("offset" bigserial, "uuid" varchar(36) not null, "created_at" timestamp not null default current_timestamp,
  "payload" json default null, "metadata" json default null, "transaction_id" xid8 not null, primary key ("transaction_id", "offset"));
create unique index watermill_orders_offset on watermill_orders ("offset");"#,
        config: r#"
[outbox]
table = "watermill_orders"
on_relayed = "delete"
[outbox.columns]
id = "offset"
seq = "offset"
topic = { sql = "'orders'" }
key = { sql = "t.metadata ->> 'partition_key'" }
headers = { sql = "t.metadata::jsonb || jsonb_build_object('uuid', t.uuid)" }
inserted_at = "created_at"
"#,
        subjects: &["orders"],
        fill: r#"create table inserted (n int); insert into watermill_orders ("uuid", payload, metadata, transaction_id)
  select 'u' || g, json_build_object('n', g), '{"partition_key": "p1"}', pg_current_xact_id() from generate_series(1, 5) g; insert into inserted values (5)"#,
        poison: r#"insert into watermill_orders ("uuid", payload, metadata, transaction_id) values ('u6', '{}', '{"a\nb": 1}', pg_current_xact_id());
  insert into inserted values (1)"#,
        mend: "update watermill_orders set metadata = '{}' ",
        relayed: "select (select sum(n) from inserted) - (select count(*) from watermill_orders)",
        failed: "",
        first: First {
            key: Some("p1"),
            header: Some(("uuid", "u1")),
            body: r#"{"n" : 1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// nestjs-inbox-outbox of typeorm: milliseconds for times, an expiry, rows that are deleted.
#[tokio::test]
async fn nestjs_with_milliseconds() {
    Framework {
        table: "inbox_outbox_transport_event",
        ddl: r#"
create table inbox_outbox_transport_event (id serial not null, event_name character varying not null, event_payload json not null,
  delivered_to_listeners json not null, ready_to_retry_after bigint, expire_at bigint not null, inserted_at bigint not null,
  constraint "PK_0f8a4b6f4c1d" primary key (id));"#,
        config: r#"
[outbox]
table = "inbox_outbox_transport_event"
on_relayed = "delete"
[outbox.columns]
seq = "id"
topic = "event_name"
payload = "event_payload"
available_at = { sql = "to_timestamp(t.ready_to_retry_after / 1000.0)" }
inserted_at = { sql = "to_timestamp(t.inserted_at / 1000.0)" }
[outbox.state]
pending = "t.expire_at > extract(epoch from now()) * 1000"
retrying = "ready_to_retry_after = extract(epoch from :retry_at) * 1000"
"#,
        subjects: &["order.>"],
        fill: "create table inserted (n int); insert into inbox_outbox_transport_event (event_name, event_payload, delivered_to_listeners, ready_to_retry_after, expire_at, inserted_at)
  select 'order.created', json_build_object('n', g), '[]', null, ms + 600000, ms
  from (select (extract(epoch from clock_timestamp()) * 1000)::bigint as ms) c, generate_series(1, 5) g;
  insert into inbox_outbox_transport_event (event_name, event_payload, delivered_to_listeners, expire_at, inserted_at) values ('order.expired', '{}', '[]', 1, 1);
  insert into inserted values (5)",
        poison: "insert into inbox_outbox_transport_event (event_name, event_payload, delivered_to_listeners, expire_at, inserted_at)
  select 'order was created', '{}', '[]', ms + 600000, ms from (select (extract(epoch from now()) * 1000)::bigint as ms) c; insert into inserted values (1)",
        mend: "update inbox_outbox_transport_event set event_name = 'order.created' where event_name = 'order was created' ",
        relayed: "select (select sum(n) from inserted) - (select count(*) from inbox_outbox_transport_event where event_name <> 'order.expired')",
        failed: "",
        first: First {
            key: None,
            header: None,
            body: r#"{"n" : 1}"#,
        },
    }
    .is_relayed()
    .await;
}

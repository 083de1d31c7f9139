//! Tables of other frameworks, as each makes and fills them.

use super::framework::{First, Framework};

/// Spring Modulith, first form of its table: a row for each listener, of which one is the relay; its rows cannot say that they failed.
#[tokio::test]
async fn spring_modulith_one_listener_of_each_publication() {
    Framework {
        table: "event_publication",
        ddl: "
create table event_publication (id uuid not null, listener_id text not null, event_type text not null, serialized_event text not null,
  publication_date timestamp with time zone not null, completion_date timestamp with time zone, primary key (id));
create index event_publication_serialized_event_hash_idx on event_publication using hash (serialized_event);
create index event_publication_by_completion_date_idx on event_publication (completion_date);",
        config: r#"
[outbox]
table = "event_publication"
[outbox.columns]
topic = "event_type"
payload = "serialized_event"
relayed_at = "completion_date"
inserted_at = "publication_date"
[outbox.state]
pending = "t.completion_date is null and t.listener_id = 'relay'"
"#,
        subjects: &["shop.>"],
        fill: r#"insert into event_publication select gen_random_uuid(), l, 'shop.OrderPlaced', '{"n":' || g || '}', clock_timestamp(), null
  from generate_series(1, 5) g, unnest(array['mail', 'relay']) l order by g"#,
        poison: "insert into event_publication values (gen_random_uuid(), 'relay', 'shop.Order Placed', '{}', now(), null)",
        mend: "update event_publication set event_type = 'shop.OrderPlaced' where event_type = 'shop.Order Placed' ",
        relayed: "select count(*) from event_publication where completion_date is not null and listener_id = 'relay'
  and (select count(*) from event_publication where listener_id = 'mail' and completion_date is null) = 5",
        failed: "",
        first: First {
            key: None,
            header: None,
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// Its second form, with a status and counted completions.
#[tokio::test]
async fn spring_modulith_with_a_status() {
    Framework {
        table: "event_publication",
        ddl: "
create table event_publication (id uuid not null, listener_id text not null, event_type text not null, serialized_event text not null,
  publication_date timestamp with time zone not null, completion_date timestamp with time zone, status text, completion_attempts int,
  last_resubmission_date timestamp with time zone, primary key (id));
create index event_publication_serialized_event_hash_idx on event_publication using hash (serialized_event);
create index event_publication_by_completion_date_idx on event_publication (completion_date);",
        config: r#"
[outbox]
table = "event_publication"
[outbox.columns]
topic = "event_type"
payload = "serialized_event"
relayed_at = "completion_date"
inserted_at = "publication_date"
attempt = { sql = "t.completion_attempts" }
[outbox.state]
pending = "t.listener_id = 'relay' and t.status in ('PUBLISHED', 'RESUBMITTED')"
relayed = "status = 'COMPLETED', completion_date = :now"
retrying = "completion_attempts = :attempt"
failed = "status = 'FAILED', completion_attempts = :attempt"
retried = "status = 'RESUBMITTED', completion_attempts = 1, last_resubmission_date = :now"
"#,
        subjects: &["shop.>"],
        fill: r#"insert into event_publication select gen_random_uuid(), 'relay', 'shop.OrderPlaced', '{"n":' || g || '}', clock_timestamp(), null,
  'PUBLISHED', 1, null from generate_series(1, 5) g"#,
        poison: "insert into event_publication values (gen_random_uuid(), 'relay', 'shop.Order Placed', '{}', now(), null, 'PUBLISHED', 1, null)",
        mend: "update event_publication set event_type = 'shop.OrderPlaced' where event_type = 'shop.Order Placed' ",
        relayed: "select count(*) from event_publication where completion_date is not null and status = 'COMPLETED' ",
        failed: "select count(*) from event_publication where status = 'FAILED' and completion_attempts = 2",
        first: First {
            key: None,
            header: None,
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// tomorrow-one: a number of a sequence, bytes, a time without a zone.
#[tokio::test]
async fn tomorrow_one_with_bytes_and_a_sequence() {
    Framework {
        table: "outbox_kafka",
        ddl: "
create sequence outbox_kafka_id_seq;
create table outbox_kafka (id bigint primary key default nextval('outbox_kafka_id_seq'::regclass), create_time timestamp without time zone not null,
  processed timestamp without time zone, topic character varying(128) not null, key character varying(128), value bytea not null, headers jsonb);
create index idx_outbox_kafka_not_processed on outbox_kafka (id) where processed is null;
create index idx_outbox_kafka_processed on outbox_kafka (processed);",
        config: r#"
[outbox]
table = "outbox_kafka"
[outbox.columns]
seq = "id"
payload = "value"
relayed_at = "processed"
inserted_at = "create_time"
"#,
        subjects: &["orders.>"],
        fill: r#"insert into outbox_kafka (create_time, topic, key, value, headers)
  select now() at time zone 'utc', 'orders.placed', 'k', convert_to('{"n":' || g || '}', 'UTF8'), '{"x-source": "shop"}' from generate_series(1, 5) g"#,
        poison: r#"insert into outbox_kafka (create_time, topic, value) values (now() at time zone 'utc', 'orders placed', '\x00')"#,
        mend: "update outbox_kafka set topic = 'orders.placed' where topic = 'orders placed' ",
        relayed: "select count(*) from outbox_kafka where abs(extract(epoch from processed - now() at time zone 'utc')) < 60",
        failed: "",
        first: First {
            key: Some("k"),
            header: Some(("x-source", "shop")),
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// pg-transactional-outbox: a time of abandoning, a segment for a key, attempts that are left alone.
#[tokio::test]
async fn pg_transactional_outbox_with_abandoned_messages() {
    Framework {
        table: "outbox",
        ddl: "
create table outbox (id uuid primary key, aggregate_type text not null, aggregate_id text not null, message_type text not null, segment text,
  concurrency text not null default 'sequential', payload jsonb not null, metadata jsonb, locked_until timestamptz not null default to_timestamp(0),
  created_at timestamptz not null default clock_timestamp(), processed_at timestamptz, abandoned_at timestamptz,
  started_attempts smallint not null default 0, finished_attempts smallint not null default 0,
  constraint outbox_concurrency_check check (concurrency in ('sequential', 'parallel')));
create index outbox_segment_idx on outbox (segment); create index outbox_created_at_idx on outbox (created_at);
create index outbox_processed_at_idx on outbox (processed_at); create index outbox_abandoned_at_idx on outbox (abandoned_at);
create index outbox_locked_until_idx on outbox (locked_until);",
        config: r#"
[outbox]
table = "outbox"
[outbox.columns]
topic = "message_type"
key = "segment"
headers = "metadata"
relayed_at = "processed_at"
failed_at = "abandoned_at"
inserted_at = "created_at"
"#,
        subjects: &["movie.>"],
        fill: r#"insert into outbox (id, aggregate_type, aggregate_id, message_type, segment, payload, metadata)
  select gen_random_uuid(), 'movie', g::text, 'movie.created', 's1', jsonb_build_object('n', g), '{"routingKey": "movie"}' from generate_series(1, 5) g"#,
        poison: r#"insert into outbox (id, aggregate_type, aggregate_id, message_type, payload, metadata)
  values (gen_random_uuid(), 'movie', '6', 'movie.created', '{}', '["not", "headers"]')"#,
        mend: "update outbox set metadata = null where aggregate_id = '6' ",
        relayed: "select count(*) from outbox where processed_at is not null and abandoned_at is null",
        failed: "select count(*) from outbox where processed_at is null and abandoned_at is not null and started_attempts = 0",
        first: First {
            key: Some("s1"),
            header: Some(("routingKey", "movie")),
            body: r#"{"n": 1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// namastack: ids in a text, status words, a time of the next retry, a reason of limited length.
#[tokio::test]
async fn namastack_with_a_reason_of_limited_length() {
    Framework {
        table: "outbox_record",
        ddl: "
create table outbox_record (id varchar(255) not null, status varchar(20) not null, record_key varchar(255) not null, record_type varchar(255) not null,
  payload text not null, context text, created_at timestamp with time zone not null, completed_at timestamp with time zone,
  failure_count integer not null, failure_reason varchar(30), next_retry_at timestamp with time zone not null, partition_no integer not null,
  handler_id varchar(1000) not null, primary key (id));
create index idx_outbox_record_key_created on outbox_record (record_key, created_at);
create index outbox_record_partition_status_retry on outbox_record (partition_no, status, next_retry_at);
create index idx_outbox_status_retry on outbox_record (status, next_retry_at);",
        config: r#"
[outbox]
table = "outbox_record"
[outbox.columns]
topic = "record_type"
key = "record_key"
headers = "context"
available_at = "next_retry_at"
attempt = { sql = "t.failure_count + 1" }
relayed_at = "completed_at"
inserted_at = "created_at"
[outbox.state]
pending = "t.status = 'NEW'"
relayed = "status = 'COMPLETED', completed_at = :now"
retrying = "failure_count = :attempt - 1, failure_reason = :error, next_retry_at = :retry_at"
failed = "status = 'FAILED', failure_count = :attempt - 1, failure_reason = :error"
retried = "status = 'NEW', failure_count = 0, next_retry_at = :now"
"#,
        subjects: &["customer.>"],
        fill: r#"insert into outbox_record select 'id ' || g, 'NEW', 'customer-1', 'customer.registered', '{"n":' || g || '}', '{"tenant":"a"}', clock_timestamp(), null, 0,
  null, clock_timestamp(), 7, 'h' from generate_series(1, 5) g"#,
        poison: "insert into outbox_record values ('ID 1', 'NEW', 'customer-1', 'customer registered', '{}', null, now(), null, 0, null, now(), 7, 'h')",
        mend: "update outbox_record set record_type = 'customer.registered' where id = 'ID 1' ",
        relayed: "select count(*) from outbox_record where status = 'COMPLETED' and completed_at is not null",
        failed: "select count(*) from outbox_record where id = 'ID 1' and status = 'FAILED' and failure_count = 1 and length(failure_reason) = 30",
        first: First {
            key: Some("customer-1"),
            header: Some(("tenant", "a")),
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

/// sbmt-outbox of Rails: a number for the order, a uuid for the message, states as numbers, a key that is a number.
#[tokio::test]
async fn rails_with_a_number_and_a_uuid() {
    Framework {
        table: "order_outbox_items",
        ddl: "
create table order_outbox_items (id bigserial primary key, uuid uuid not null, event_name character varying not null, event_key bigint not null,
  bucket bigint not null, payload bytea not null, options jsonb, status integer default 0 not null, errors_count integer default 0 not null,
  error_log text, processed_at timestamp(6) without time zone, created_at timestamp(6) without time zone not null,
  updated_at timestamp(6) without time zone not null);
create unique index index_order_outbox_items_on_uuid on order_outbox_items (uuid);
create index index_order_outbox_items_on_status_and_id_and_bucket on order_outbox_items (status, id, bucket) include (errors_count);
create index index_order_outbox_items_on_event_name_and_event_key_and_id on order_outbox_items (event_name, event_key, id);
create index index_order_outbox_items_on_created_at on order_outbox_items (created_at);",
        config: r#"
[outbox]
table = "order_outbox_items"
[outbox.columns]
id = "uuid"
seq = "id"
topic = { sql = "'orders.' || t.event_name" }
key = "event_key"
headers = { sql = "t.options -> 'headers'" }
attempt = { sql = "t.errors_count + 1" }
relayed_at = "processed_at"
inserted_at = "created_at"
[outbox.state]
pending = "t.status = 0"
relayed = "status = 2, processed_at = :now, updated_at = :now"
retrying = "errors_count = :attempt - 1, error_log = :error, updated_at = :now"
failed = "status = 1, errors_count = :attempt - 1, error_log = :error, updated_at = :now"
retried = "status = 0, errors_count = 0, updated_at = :now"
"#,
        subjects: &["orders.>"],
        fill: r#"insert into order_outbox_items (uuid, event_name, event_key, bucket, payload, options, created_at, updated_at)
  select gen_random_uuid(), 'created', 42, 3, convert_to('{"n":' || g || '}', 'UTF8'), '{"headers": {"Sequence-ID": "1"}}', now() at time zone 'utc',
    now() at time zone 'utc' from generate_series(1, 5) g"#,
        poison: r#"insert into order_outbox_items (uuid, event_name, event_key, bucket, payload, created_at, updated_at)
  values (gen_random_uuid(), 'not created', 42, 3, '\x00', now() at time zone 'utc', now() at time zone 'utc')"#,
        mend: "update order_outbox_items set event_name = 'created' where status = 1",
        relayed: "select count(*) from order_outbox_items where status = 2 and processed_at is not null",
        failed: "select count(*) from order_outbox_items where status = 1 and errors_count = 1 and error_log is not null",
        first: First {
            key: Some("42"),
            header: Some(("Sequence-ID", "1")),
            body: r#"{"n":1}"#,
        },
    }
    .is_relayed()
    .await;
}

-- Why a message was not sent yet: what people ask an instance about one message, and its answer.
--
-- Locks: only the table it creates. It is empty but for the seconds an answer takes: the instances clean it.

create table if not exists {questions} (
    id       bigint generated always as identity primary key,
    outbox   text not null,
    -- Who is asked: the instance that has the message's lane.
    instance text not null,
    seq      bigint not null,
    at       timestamptz not null default now(),
    -- JSON in ASCII: a database in any encoding takes it.
    answer   text
);
create index if not exists outboxd_questions_open on {questions} (outbox, instance, id) where answer is null;

-- The fencing audit: who wrote what became of a row, and whose the row's lane was. In a schema of the test's own; the
-- product knows nothing of it.
--
-- Every statement of the daemon that changes relayed_at, attempt or failed_at is noted row by row, with the lane's owner
-- and epoch twice: as the statement itself saw them (a function declared stable reads with its caller's snapshot), and as
-- they are when it ends (a volatile one takes a new snapshot).

create schema audit;

create table audit.writes (
    seq       bigint not null,
    what      text not null,        -- 'relayed' or 'failed' (an attempt or the end)
    writer    text not null,        -- the instance, from application_name outboxd/<instance>/<role>
    lane      integer not null,
    owner     text,                 -- as the statement saw it
    epoch     bigint,
    owner_now text,                 -- as it was when the statement ended
    at        timestamptz not null default clock_timestamp()
);

create index on audit.writes (at);

create table audit.lanes (
    lane         integer not null,
    owner_before text,
    owner        text,
    epoch_before bigint not null,
    epoch        bigint not null,
    by           text not null,
    at           timestamptz not null default clock_timestamp()
);

create function audit.instance() returns text language sql stable as $$
    select case when current_setting('application_name') like 'outboxd/%'
                then split_part(current_setting('application_name'), '/', 2) else '' end
$$;

-- The lane of a row: a hash of topic and key, of seq where there is no key (sql/fragments/lane.sql).
create function audit.lane(topic text, key text, seq bigint) returns integer language sql stable as $$
    select ((case when key is null then hashint8extended(seq, 0)
             else hashtextextended(key, hashtextextended(topic, 0)) end & 9223372036854775807)
            % (select count(*) from outboxd_lanes))::integer
$$;

create function audit.note(seqs bigint[], what text[], lanes integer[], owners text[], epochs bigint[]) returns void
language sql volatile as $$
    insert into audit.writes (seq, what, writer, lane, owner, epoch, owner_now)
    select w.seq, w.what, audit.instance(), w.lane, w.owner, w.epoch, l.owner
    from unnest(seqs, what, lanes, owners, epochs) as w (seq, what, lane, owner, epoch)
    left join outboxd_lanes l on l.lane = w.lane
$$;

create function audit.message_written() returns trigger language plpgsql stable security definer as $$
begin
    -- An operator's or a test's own update is nobody's lease.
    if audit.instance() = '' then
        return null;
    end if;
    perform audit.note(array_agg(w.seq), array_agg(w.what), array_agg(w.lane), array_agg(w.owner), array_agg(w.epoch))
    from (
        select a.seq,
               case when a.attempt <> b.attempt or a.failed_at is distinct from b.failed_at then 'failed' else 'relayed' end as what,
               l.lane, l.owner, l.epoch
        from after a
        join before b on b.seq = a.seq
        join outboxd_lanes l on l.lane = audit.lane(a.topic, a.key, a.seq)
        where a.relayed_at is distinct from b.relayed_at or a.failed_at is distinct from b.failed_at or a.attempt <> b.attempt
    ) as w
    having count(*) > 0;
    return null;
end
$$;

create trigger audit after update on outbox_messages referencing old table as before new table as after
    for each statement execute function audit.message_written();

create function audit.lane_written() returns trigger language plpgsql security definer as $$
begin
    insert into audit.lanes (lane, owner_before, owner, epoch_before, epoch, by)
    values (new.lane, old.owner, new.owner, old.epoch, new.epoch, audit.instance());
    return null;
end
$$;

create trigger audit after update on outboxd_lanes for each row execute function audit.lane_written();

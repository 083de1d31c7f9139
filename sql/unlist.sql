-- Strikes off rows that were enlisted and are not to be sent any more: their own relay was quicker, the application has cancelled or
-- deleted them; and rows whose topic, key or time was changed there since, which are enlisted anew as they are. Failed ones stay, while
-- they are there, until somebody decides.
-- A scalar sub-select, as in enlist.sql. One instance at a time.
-- Locks: the rows it deletes, of a table of ours. Index: of their table, the id.
begin;
select set_config('outboxd.turn', case when pg_try_advisory_xact_lock(hashtextextended({lock}, 817)) then 'mine' else 'no' end, true),
  set_config('jit', 'off', true);
delete from {messages} r
where current_setting('outboxd.turn') = 'mine'
  and case when r.{c.failed_at} is null then (select ({t.pending}) and {t.same_r} from {t.table} t where t.{t.id} = r.{c.id}) is not true
    else (select true from {t.table} t where t.{t.id} = r.{c.id}) is not true end;
commit

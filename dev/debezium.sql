-- Transactions of mixed rows for `dev/debezium compare`: run by psql, with -v rows=N -v writer=1 (2, ... at once).
--
-- What is written is made first and then sent command by command, as an application does it: single rows, transactions of several,
-- savepoints that are released, rolled back or nested, transactions that are rolled back. Each writer has keys of its own. Rows of
-- one key are written in an order that a table without a time or sequence can tell: none follows a released savepoint's within its
-- transaction, and none stands twice in one insert.
\set ON_ERROR_STOP 1
select setseed(:writer / 100.0) \g /dev/null

-- Of each payload there is, number n of it.
create function pg_temp.payload(n int) returns text language sql volatile as $$
  select case floor(random() * 22)::int
    when 0 then null -- a tombstone
    when 1 then format('{"id": %s, "total": 1.50}', n)
    when 2 then format('{"order": {"id": %s, "lines": [{"sku": "A-1", "n": 2}, {"sku": "B", "n": null}], "paid": true}}', n)
    when 3 then format('{"a": 1.50, "b": 1e3, "c": 12345678901234567890, "d": -0.0, "e": 1E-7, "f": 0.10000000000000000001, "g": %s.000}', n)
    when 4 then format('{"%s": "Grüße aus Zürich, 世界, 🎉, \u00e9, \ud83d\ude00, \u2028, e\u0301"}', n)
    when 5 then format('{"text": "\"quoted\" \\ \/ \b\f\n\r\t \u0001 \u001f \u007f <&''> $1 ${x} %s"}', n)
    when 6 then '{}'
    when 7 then '[]'
    when 8 then format('[1, [2, [%s, []]], {"a": null}, "b", false, 3.0]', n)
    when 9 then format('"a text, number %s"', n)
    when 10 then '""'
    when 11 then 'true'
    when 12 then 'false'
    when 13 then 'null'
    when 14 then format('%s.50', n)
    when 15 then '1e40'
    when 16 then format('{"zz": 1, "a": 2, "b": {"y": [], "x": {}}, "a": %s, "": "empty name"}', n) -- jsonb orders, and keeps the last
    when 17 then format('   {  "spaces"  :  [ %s ,  2 ]  }  ', n)
    when 18 then format('{"large": "%s"}', (select string_agg(md5(random()::text), '') from generate_series(1, 1 + (random() * 300)::int)))
    when 19 then format('{"repeated": "%s"}', repeat('never mind ', (random() * 1000)::int))
    when 20 then format('"2026-02-30T25:61:00Z %s"', n)
    else format('-%s', n)
  end
$$;

-- Some keys have many messages, most have few.
create function pg_temp.key(writer int, n int) returns text language sql volatile as $$
  select case n % 9
    when 0 then format('%s', n * 10 + writer)
    when 1 then format('order %s of customer %s', n, writer)
    when 2 then format('Schlüssel %s-%s, 鍵, 🔑', writer, n)
    when 3 then format('  %s-%s  ', writer, n)
    when 4 then format('"%s-%s"', writer, n)
    when 5 then format('{"id": "%s-%s"}', writer, n)
    when 6 then format(E'%s\t%s\nand \\ a "line"', writer, n)
    when 7 then gen_random_uuid()::text
    else case when n = 8 and writer = 1 then '' else format('null%s%s', writer, n) end
  end
$$;

create function pg_temp.row(aggregate text, key text, n int) returns text language sql volatile as $$
  select format('(%L, %L, %L, %L, %L)', gen_random_uuid(), aggregate, key,
    (array['OrderCreated', 'OrderPaid', 'order.paid v2', 'Bestellung geprüft ✓', 'He said "paid"', 'back\slash', ''])[1 + floor(random() * 7)::int],
    pg_temp.payload(n))
$$;

create function pg_temp.commands(rows int, writer int) returns setof text language plpgsql as $$
declare
  into_ constant text := 'insert into outbox (id, aggregatetype, aggregateid, type, payload) values ';
  left_ int := rows;
  kind int;
  aggregate text;
  n int;
  one text;
  other text;
begin
  while left_ > 0 loop
    n := floor(power(random(), 3) * 900);
    one := pg_temp.key(writer, n);
    other := pg_temp.key(writer, n + 901);
    aggregate := (array['order', 'customer', 'invoice.line', 'Shipment_2'])[1 + n % 4];
    kind := case when left_ < 6 then 0 else floor(random() * 8) end;
    case kind
      when 1 then
        return query select unnest(array['begin', into_ || pg_temp.row(aggregate, one, left_ - 1), into_ || pg_temp.row(aggregate, one, left_ - 2),
          into_ || pg_temp.row(aggregate, one, left_ - 3), 'commit']);
        left_ := left_ - 3;
      when 2 then
        return query select unnest(array['begin', into_ || pg_temp.row(aggregate, one, left_ - 1), 'savepoint a',
          into_ || pg_temp.row(aggregate, one, left_ - 2), 'release a', 'commit']);
        left_ := left_ - 2;
      when 3 then -- what was rolled back never happened
        return query select unnest(array['begin', into_ || pg_temp.row(aggregate, one, left_ - 1), 'savepoint a',
          into_ || pg_temp.row('lost', one, left_ - 2), 'rollback to a', into_ || pg_temp.row(aggregate, one, left_ - 3), 'commit']);
        left_ := left_ - 2;
      when 4 then
        return query select unnest(array['begin', into_ || pg_temp.row(aggregate, one, left_ - 1), 'savepoint a',
          into_ || pg_temp.row(aggregate, one, left_ - 2), 'savepoint b', into_ || pg_temp.row(aggregate, one, left_ - 3), 'release b',
          'release a', into_ || pg_temp.row(aggregate, other, left_ - 4), 'commit']);
        left_ := left_ - 4;
      when 5 then
        return query select unnest(array['begin', into_ || pg_temp.row('lost', one, left_ - 1), 'savepoint a',
          into_ || pg_temp.row('lost', one, left_ - 2), 'release a', 'rollback']);
      when 6 then
        return query select unnest(array[into_ || pg_temp.row(aggregate, one, left_ - 1) || ', ' || pg_temp.row('order', other, left_ - 2)]);
        left_ := left_ - 2;
      when 7 then -- the connection does other things meanwhile
        return query select unnest(array['begin isolation level repeatable read', 'select 1', into_ || pg_temp.row(aggregate, one, left_ - 1),
          into_ || pg_temp.row('customer', other, left_ - 2), into_ || pg_temp.row(aggregate, one, left_ - 3), 'commit']);
        left_ := left_ - 3;
      else
        return next into_ || pg_temp.row(aggregate, one, left_ - 1);
        left_ := left_ - 1;
    end case;
  end loop;
end
$$;

select pg_temp.commands(:rows, :writer) \gexec

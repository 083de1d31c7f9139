-- The last number taken, somewhat below which the cursor starts, and the sequence whose lock tells which transactions have
-- taken numbers.
-- Locks nothing. Index: primary key (its last entry). Law: no gaps.
select greatest(
    coalesce((select max(m.{c.seq}) from {messages} m), 0),
    coalesce(case when has_sequence_privilege(s.oid, 'select') then pg_sequence_last_value(s.oid) end, 0)
  ) as last,
  s.oid as sequence
from (select pg_get_serial_sequence({messages_text}, {seq_text})::regclass::oid as oid) s

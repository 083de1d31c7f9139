-- How many lanes the outbox is divided into: as its rows or a live instance say, else as configured.
-- How many of their rows are missing, and whether the current role may put them back.
-- Locks nothing. A few rows.
select d.lanes::bigint as lanes,
       d.lanes - (select count(*) from {lanes} l where l.outbox = {table_text}) as missing,
       has_any_column_privilege({lanes_text}, 'insert') as restores
from (select coalesce(greatest(
    (select max(l.lane) + 1 from {lanes} l where l.outbox = {table_text}),
    (select max(i.lanes) from {instances} i where i.outbox = {table_text} and i.expires_at > now())),
    {lanes_count}) as lanes) d

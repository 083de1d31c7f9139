-- Where the outbox begins and ends, and what time it is.
-- Locks nothing. Primary key, its two ends. One clock.
select (select m.{c.seq} from {messages} m order by m.{c.seq} limit 1) as first,
       (select m.{c.seq} from {messages} m order by m.{c.seq} desc limit 1) as last,
       now() as now

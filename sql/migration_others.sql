-- The first of the other outboxes of this schema.
-- Locks nothing. A few rows.
select min(m.outbox) from {migrations} m where m.outbox <> {table_text}

-- A row that waits for a time, whatever is null.
({waiting} and m.{c.available_at} is not null)

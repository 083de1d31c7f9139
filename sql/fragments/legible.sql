-- A row that did not fail for its topic or key: what `unreadable` writes into `last_error`.
coalesce(m.{c.last_error} !~ '^(topic|key)[a-z, ]* cannot be read: ', true)

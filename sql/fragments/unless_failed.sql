-- A failed message that is pending in their table again: a person has taken it back.
and r.{c.failed_at} is null

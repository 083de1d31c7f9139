-- Neither relayed nor failed: the condition of the index of pending rows.
m.{c.relayed_at} is null and m.{c.failed_at} is null

-- For people: the index that finds pending rows in order.
create index concurrently on {table} ({place}) where {condition}

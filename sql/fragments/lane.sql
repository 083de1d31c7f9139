-- A row without a topic, and one whose topic or key cannot be read, has the lane of its number.
((coalesce(case when m.{c.key} is not null and m.{c.seq} <> all(u.places)
then hashtextextended(m.{c.key}, hashtextextended(m.{c.topic}, 0)) end, hashint8extended(m.{c.seq}, 0))
& 9223372036854775807) % {lanes_count})

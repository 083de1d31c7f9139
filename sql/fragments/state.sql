-- What a row is to the cursor.
m.{c.available_at}::timestamptz as available_at, case when not ({pending}) then 0
when u.places is not null and get_bit($3::bytea, {lane}::int) = 0 then 0 when {ready} then 1 else 2 end as state

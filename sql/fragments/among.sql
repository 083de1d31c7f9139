-- Of the statements that end messages: one of those whose bit is set in $1, which begins with $7 and ends with $8, and
-- whose id is the one in its place in $9. An index into an array costs less than any way to take 16 bytes out of many.
m.{c.seq} between $7 and $8
and case when m.{c.seq} between $7 and $8 then get_bit($1::bytea, (m.{c.seq} - $7)::int) = 1
and m.{c.id} = ($9::uuid[])[(m.{c.seq} - $7 + 1)::int] and coalesce(m.{c.replay}, 0) = 0 end

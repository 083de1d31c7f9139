-- The same for people's counts: of a long key its length and beginning are enough, and nothing else of it is read.
hashtextextended(case when octet_length(m.{c.key}) <= 4096 then m.{c.key}
else left(m.{c.key}, 1000) end, hashtextextended(m.{c.topic}, octet_length(m.{c.key})))

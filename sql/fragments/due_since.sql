-- No time before 1970 is one that anybody means; and the server subtracts no infinite ones.
least(greatest(coalesce(case when m.{c.available_at} > timestamptz 'epoch' then m.{c.available_at}
else m.{c.inserted_at} end, now()), now() - interval '100 years'), now())

-- A person has taken back in their table that a message failed, and may have corrected it.
on conflict ({c.id}) do update set {c.failed_at} = null, {c.attempt} = 1, {c.available_at} = now(), {c.updated_at} = now(),
{c.topic} = excluded.{c.topic}, {c.key} = excluded.{c.key}, {c.priority} = excluded.{c.priority},
{c.max_attempts} = excluded.{c.max_attempts}
where r.{c.failed_at} is not null

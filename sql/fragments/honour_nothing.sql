-- Their rows cannot say that they failed: one that is enlisted stays as it is.
on conflict ({c.id}) do nothing

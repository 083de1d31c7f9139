-- The columns of a message.
m.{c.seq} as seq, {lane}::int as lane, {contents}

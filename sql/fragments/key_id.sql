-- What `message::KeyId` is made of: nothing of a row without a key, or that cannot be read. `format` writes what is
-- read, where a cast takes the spaces off a `character(n)`; `textsend` is what goes over the wire, text or not. An
-- application's functions of these names would fit better than the server's.
case when m.{c.seq} <> all(u.contents) and m.{c.key} is not null
then substring(pg_catalog.sha256(pg_catalog.textsend(pg_catalog.format('%s', m.{c.topic}))
|| pg_catalog.decode('00', 'hex') || pg_catalog.textsend(pg_catalog.format('%s', m.{c.key}))) for 16) end

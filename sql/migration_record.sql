-- Remembers one applied file. The checksum is that of the file as shipped, before names are filled in.
insert into {migrations} (version, name, checksum, outbox)
values ({version}, {file_text}, {checksum_text}, {table_text})
on conflict do nothing;

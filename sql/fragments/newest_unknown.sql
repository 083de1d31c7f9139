-- Nobody knows without reading everything.
null::bigint

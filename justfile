# One verb per task; `just` lists them. Everything runs without just too: see README.md.

export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", env("OUTBOXD_CACHE", env("HOME") / ".cache/outboxd") / "target")

_default:
    @just --list --unsorted

# Everything CI runs
check:
    dev/test

# Only tests whose names contain FILTER
test *FILTER:
    dev/test {{FILTER}}

# The story from insert to consumer, on scratch servers (--kafka, --keep)
demo *ARGS:
    dev/demo {{ARGS}}

# Rates, latencies and CPU on scratch servers
bench *ARGS:
    dev/bench {{ARGS}}

# Debezium Server and outboxd on one table: what consumers get is the same (compare; --rows N, --keep)
debezium *ARGS:
    dev/debezium {{ARGS}}

# N stories of the engine in bad weather (10,000), or one told in full: --seed S
simulate *ARGS:
    dev/simulate {{ARGS}}

# Random faults on three instances and real servers (--minutes N, --to nats|kafka|both, --seed S; --holds)
chaos *ARGS:
    dev/chaos {{ARGS}}

# Made-up input for everything that reads what strangers write (--seconds N, TARGET...)
fuzz *ARGS:
    dev/fuzz {{ARGS}}

# The release binary as a Debian package (--tarball, --version V); prints its path
deb *ARGS:
    dev/deb {{ARGS}}

# The package in a fresh Debian 12 with systemd: start, watchdog, boot, upgrade, purge (root; --keep)
packaging *ARGS:
    dev/packaging {{ARGS}}

fmt:
    cargo fmt

lint:
    cargo clippy --features testing --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --features testing

# Licences, advisories and sources of every dependency (needs cargo-deny; the advisories come from GitHub: where that cannot be
# reached, "licenses bans sources")
deny *CHECKS:
    cargo deny check {{CHECKS}}

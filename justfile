# What a developer does here. `just` alone lists it.

tools := `.ci/tools --path`
export PATH := tools + ":" + env("PATH")

_list:
    @{{ just_executable() }} --list --unsorted

# The service on 127.0.0.1:50051, on the embedded PostgreSQL unless DATABASE_URL says otherwise
run *arguments:
    cargo run --locked -- {{ arguments }}

# The tests on the embedded PostgreSQL; `just test accounts` for some of them
test *arguments:
    cargo test --locked {{ arguments }}

# The tests on a private PostgreSQL 15, started for them
test-real *arguments:
    .ci/postgres cargo test --locked {{ arguments }}

# The same on PostgreSQL 18, the newest
test-newest *arguments: tools
    POSTGRES_BIN="$(.ci/tools --postgres)" .ci/postgres cargo test --locked {{ arguments }}

# What the compiler, clippy and the checks of dependencies and migrations have to say
lint: tools
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings
    cargo-deny --locked check --hide-inclusion-graph bans licenses sources
    cargo-shear shear --locked --deny-warnings
    squawk migrations/*/up.sql

# Formats Rust and protos
fmt: tools
    cargo fmt
    buf format --write

# src/schema.rs anew, after a change of migrations/
schema:
    UPDATE_SCHEMA=1 .ci/postgres cargo test --locked --test it schema

# Formats and checks the contract; the next build compiles it
proto: tools
    buf format --write
    buf lint

# Everything a commit must pass
ci:
    .ci/run

# Known vulnerabilities of the dependencies; reads the RustSec database from the network
audit: tools
    cargo-deny --locked check advisories

# The programs that the checks need beside Rust, in target/ci
tools:
    .ci/tools

# The commands of a developer. `just` alone lists them.

tools := `.ci/tools --path`
export PATH := tools + ":" + env("PATH")

_list:
    @{{ just_executable() }} --list --unsorted

# Runs the service on 127.0.0.1:50051, on the embedded PostgreSQL unless DATABASE_URL is set
run *arguments:
    cargo run --locked -- {{ arguments }}

# Runs the tests on the embedded PostgreSQL; `just test accounts` runs some of them
test *arguments:
    cargo test --locked {{ arguments }}

# Runs the tests on a private PostgreSQL 15, which is started for them
test-real *arguments:
    .ci/postgres cargo test --locked {{ arguments }}

# Runs the tests on a private PostgreSQL 18, the newest version
test-newest *arguments: tools
    POSTGRES_BIN="$(.ci/tools --postgres)" .ci/postgres cargo test --locked {{ arguments }}

# Runs random tests five times as long as the gate does
soak *arguments:
    TEST_SCALE=5 .ci/postgres cargo test --locked --test it -- membership_model isolation {{ arguments }}

# Runs clippy and the checks of dependencies and migrations
lint: tools
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings
    cargo-deny --locked check --hide-inclusion-graph bans licenses sources
    cargo-shear shear --locked --deny-warnings
    squawk migrations/*/up.sql

# Measures the service beside gRPC and PostgreSQL alone, within ten minutes; `just bench --smoke`
bench *arguments:
    cargo run --locked --release -p customer-accounts-bench -- {{ arguments }}

# Fuzzes what others send, each target for a minute; `just fuzz 10 request` one for 10 seconds
fuzz *arguments:
    .ci/fuzz {{ arguments }}

# Formats Rust and protos
fmt: tools
    cargo fmt
    buf format --write

# Writes src/schema.rs, after a change of migrations/
schema:
    UPDATE_SCHEMA=1 .ci/postgres cargo test --locked --test it schema

# Formats and checks the contract; the next build compiles it
proto: tools
    buf format --write
    buf lint

# Runs everything a commit must pass
ci:
    .ci/run

# Checks the Helm chart with the real Helm, against the schemas of Kubernetes
chart *arguments:
    .ci/chart {{ arguments }}

# Builds the container image and tests it, as root on Debian; elsewhere, and with --lint, only lints
image *arguments:
    .ci/image {{ arguments }}

# Checks and tests the alerts, and the queries of the dashboard
monitoring:
    .ci/monitoring

# Calls the service through a real Envoy with docs/examples/envoy.yaml; `just envoy PROGRAM` names the service
envoy *arguments:
    .ci/envoy {{ arguments }}

# Loses the leader of two servers under Patroni in three ways, and looks for lost changes; 3 minutes
failover *arguments:
    .ci/failover {{ arguments }}

# Tries the service behind PgBouncer in transaction mode, as root on Debian; 1 minute
pooler:
    .ci/pooler

# Replaces two replicas under load, with a migration, and back: no call may fail; 40 seconds
rollout *arguments:
    .ci/rollout {{ arguments }}

# Looks for known vulnerabilities of the dependencies, in the RustSec database on the network
audit: tools
    cargo-deny --locked check advisories

# Writes a bill of materials (CycloneDX) and the licenses of the dependencies into target/sbom; compiles nothing
sbom *arguments:
    .ci/sbom {{ arguments }}

# Installs the programs that the checks need beside Rust into target/ci
tools:
    .ci/tools

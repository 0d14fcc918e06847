//! Every metric of the service but that of calls (`layer.rs`). OPERATIONS has the same list.
//!
//! Names and attributes of `db.…` are those of the OpenTelemetry semantic conventions 1.44.0. The
//! service's own are `customer_accounts.…`: the thing, then what is measured of it. No attribute
//! has a tenant, an id, or any other value that callers choose.

pub use super::instrument::Level;
use super::instrument::{Distribution, Events, Gauge};

/// Calls that were refused because a limit was reached, by the option that sets the limit.
pub static CALLS_SHED: Events = Events::new(
    "customer_accounts.calls.shed",
    "{call}",
    "Calls refused because a limit was reached",
    "cause",
    &[
        "max_calls",
        "max_watches",
        "max_transfers",
        "max_anonymous_calls",
        "max_buffered_bytes",
        "pool_wait",
        "jwks_max_waiting",
        "tenant_share",
    ],
);

/// Transactions that lost a race.
pub static RACES_LOST: Events = Events::new(
    "customer_accounts.transactions.races_lost",
    "{transaction}",
    "Transactions that lost a race; a change is then run again, at most three times",
    "cause",
    &["serialization", "deadlock", "at_most_one"],
);

/// Refused connections.
pub static CONNECTIONS_REFUSED: Events = Events::new(
    "customer_accounts.connections.refused",
    "{connection}",
    "Connections closed at once because a limit was reached",
    "cause",
    &["max_connections", "max_connections_per_peer", "operating_system"],
);

/// Refused tokens, by one of a small fixed number of texts.
pub static TOKENS_REFUSED: Events = Events::new(
    "customer_accounts.tokens.refused",
    "{token}",
    "Tokens that were refused",
    "cause",
    &[],
);

/// Slow statements.
pub(super) static STATEMENTS_SLOW: Events = Events::new(
    "customer_accounts.statements.slow",
    "{statement}",
    "Statements that took longer than --slow-statement",
    "outcome",
    &["answered", "given_up"],
);

/// Connections that could not be had from the pool in time.
pub(super) static POOL_TIMEOUTS: Events = Events::new(
    "db.client.connection.timeouts",
    "{timeout}",
    "Calls that got no database connection in time",
    super::database::POOL_NAME,
    &[super::database::POOL],
);

/// All counters.
pub(super) static EVENTS: [&Events; 6] = [
    &CALLS_SHED,
    &RACES_LOST,
    &CONNECTIONS_REFUSED,
    &TOKENS_REFUSED,
    &STATEMENTS_SLOW,
    &POOL_TIMEOUTS,
];

/// Times of transactions and flights. The boundaries are those of the conventions, and smaller ones
/// for the reads of this service.
pub(super) static OPERATION_DURATION: Distribution = Distribution::new(
    "db.client.operation.duration",
    "s",
    "Duration of database transactions, and of flights of hot reads",
    &[0.000_25, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0],
);

/// Times of waiting for a connection.
pub(super) static POOL_WAIT_TIME: Distribution = Distribution::new(
    "db.client.connection.wait_time",
    "s",
    "Time that calls waited for a database connection",
    &[0.000_1, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
);

/// Times of connecting to the database.
pub(super) static POOL_CREATE_TIME: Distribution = Distribution::new(
    "db.client.connection.create_time",
    "s",
    "Time to open a database connection",
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0],
);

/// How many hot reads were sent together.
pub static FLIGHT_SIZE: Distribution = Distribution::new(
    "customer_accounts.hot_reads.flight_size",
    "{call}",
    "Calls of GetAccount and CheckMembership that were sent to the database together",
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
);

pub(super) static POOL_COUNT: Level =
    Level::new("db.client.connection.count", "{connection}", "Database connections by state");
pub(super) static POOL_MAX: Level =
    Level::new("db.client.connection.max", "{connection}", "Most database connections");
pub(super) static POOL_PENDING: Level = Level::new(
    "db.client.connection.pending_requests",
    "{request}",
    "Calls that wait for a database connection",
);

pub(super) static CALLS_ACTIVE: Level =
    Level::new("customer_accounts.calls.active", "{call}", "Inbound calls under way");
/// Most calls at once.
pub static CALLS_MAX: Level =
    Level::new("customer_accounts.calls.max", "{call}", "Most inbound calls at once (--max-calls)");
/// Watches that are open.
pub static WATCHES_OPEN: Level =
    Level::new("customer_accounts.watches.open", "{watch}", "Open watches of the activity feed");
/// Most watches at once.
pub static WATCHES_MAX: Level =
    Level::new("customer_accounts.watches.max", "{watch}", "Most watches at once (--max-watches)");
/// Imports and exports that are open.
pub static TRANSFERS_OPEN: Level =
    Level::new("customer_accounts.transfers.open", "{transfer}", "Open imports and exports");
/// Most imports and exports at once.
pub static TRANSFERS_MAX: Level = Level::new(
    "customer_accounts.transfers.max",
    "{transfer}",
    "Most imports and exports at once (--max-transfers)",
);
/// Client connections that are open.
pub static CONNECTIONS_OPEN: Level =
    Level::new("customer_accounts.connections.open", "{connection}", "Open connections of clients");
/// Most client connections at once.
pub static CONNECTIONS_MAX: Level = Level::new(
    "customer_accounts.connections.max",
    "{connection}",
    "Most connections of clients at once (--max-connections)",
);

/// Whether the service takes calls, as `readiness` of the health service says.
pub static READY: Gauge = Gauge::new(
    "customer_accounts.ready",
    "",
    "1 while the health service reports readiness, otherwise 0",
);
/// How long the activity feed has been held back.
pub static FEED_LAG: Gauge = Gauge::new(
    "customer_accounts.feed.lag",
    "s",
    "How long one transaction has held the activity feed back, as the watches of this replica see",
);
/// Time until a certificate of the listener expires.
pub static CERTIFICATE_REMAINING: Gauge = Gauge::new(
    "customer_accounts.certificate.remaining",
    "s",
    "Time until the first certificate of a TLS file expires; negative once it has",
);
/// Time since an issuer's keys were last fetched.
pub static ISSUER_KEYS_AGE: Gauge = Gauge::new(
    "customer_accounts.issuer_keys.age",
    "s",
    "Time since the keys of a token issuer were last fetched",
);
/// The version that runs.
pub(super) static BUILD_INFO: Gauge =
    Gauge::new("customer_accounts.build.info", "", "1, with the version that runs");

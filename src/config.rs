//! The configuration: one struct, whose `--help` is the manual. Every option is also an environment
//! variable.

mod help;
mod listen;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub use self::listen::Listen;

use crate::{
    caller::{
        mesh::MeshHeader,
        options::{DevelopmentToken, TokenOptions},
        workload::Workloads,
    },
    files::{ExportOptions, ImportOptions},
    option_values::{at_least_one, at_most_a_second, bytes_or_never, duration, not_zero},
    share::Percent,
    telemetry::LogFormat,
};

/// Customer Accounts: a multi-tenant gRPC service for the accounts of B2B customers.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120, after_help = help::SERVE)]
pub struct Cli {
    /// The command; `serve` if there is none.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of all commands.
    #[command(flatten)]
    pub config: Config,
}

impl Cli {
    /// Reads the command line and the environment. For `--help` or a mistake, prints the text and
    /// ends the process.
    pub fn from_command_line() -> Self {
        let mut command = help::arrange(help::without_empty_variables(Self::command()));
        let parsed = command
            .try_get_matches_from_mut(std::env::args_os())
            .and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// The folder of the embedded PostgreSQL, if the command uses it.
    pub fn embedded_data_dir(&self) -> Option<&Path> {
        let needed = match self.command {
            None
            | Some(Command::Serve | Command::Migrate { .. } | Command::Check | Command::Prune) => {
                self.config.database_url.is_none()
            }
            Some(Command::Transfer) => true,
            Some(
                Command::Healthcheck { .. }
                | Command::Seed { .. }
                | Command::Import(_)
                | Command::Export(_)
                | Command::Token(_)
                | Command::Descriptors { .. },
            ) => false,
        };
        needed.then_some(&self.config.data_dir)
    }
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Serve gRPC until SIGTERM or SIGINT (the default).
    Serve,
    /// Bring the database to the schema of this version, or revert migrations.
    #[command(after_help = help::MIGRATE)]
    Migrate {
        /// Revert the last N migrations instead. This deletes the data that they added.
        #[arg(long, value_name = "N")]
        revert: Option<usize>,
    },
    /// Copy everything from the embedded PostgreSQL on --data-dir into the database of
    /// `DATABASE_URL`. That database must have no rows yet, and is migrated first. Stop the service
    /// before. Uses the login that migrates.
    #[command(after_help = help::TRANSFER)]
    Transfer,
    /// Check configuration and database, and exit with 0 if the service could serve. Takes the
    /// options of `serve`.
    Check,
    /// Delete activities that are older than their tenant keeps them. Uses the login that migrates.
    /// Run it about once a day.
    Prune,
    /// Ask a running service on --listen for its health, and exit with 0 if it serves. For
    /// container probes.
    Healthcheck {
        /// What to ask for: `readiness` follows the database, `liveness` is of the process alone.
        #[arg(value_enum, default_value_t)]
        service: Health,
    },
    /// Fill the tenant `demo` of a running service on --listen with a small, realistic example.
    #[command(after_help = help::SEED)]
    Seed {
        /// A token of an administrator of the tenant `demo`, for a service that requires tokens.
        #[arg(long, env = "CUSTOMER_ACCOUNTS_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Import accounts from a CSV file or JSON lines into a running service. Tells why a row is
    /// refused, and can be repeated: rows that change nothing are left alone.
    #[command(after_help = help::IMPORT)]
    Import(Box<ImportOptions>),
    /// Export accounts of a running service to a CSV file or JSON lines.
    #[command(after_help = help::EXPORT)]
    Export(Box<ExportOptions>),
    /// Make a token for development and print it. Signs it with a key of your own, which the first
    /// use makes. Prints to stderr which options a service needs to accept the key.
    #[command(after_help = help::TOKEN)]
    Token(DevelopmentToken),
    /// Write the protobuf descriptors of the API: services and messages with their comments, and the
    /// details of errors (google.rpc).
    #[command(after_help = help::DESCRIPTORS)]
    Descriptors {
        /// The file to write, a `FileDescriptorSet`; `-` for standard output.
        file: PathBuf,
    },
}

/// What a service is asked for by `healthcheck`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Health {
    /// Whether the service and its database can take calls.
    #[default]
    Readiness,
    /// Whether the process runs.
    Liveness,
}

impl Command {
    /// The name of the command.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Migrate { .. } => "migrate",
            Self::Transfer => "transfer",
            Self::Check => "check",
            Self::Prune => "prune",
            Self::Healthcheck { .. } => "healthcheck",
            Self::Seed { .. } => "seed",
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Token(_) => "token",
            Self::Descriptors { .. } => "descriptors",
        }
    }
}

/// The options of the service.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to serve on: an IP address or a name, and a port. Commands that call a running
    /// service connect to it.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LISTEN", value_name = "HOST:PORT",
          default_value = "127.0.0.1:50051", value_parser = Listen::parse)]
    pub listen: Listen,

    /// PostgreSQL 15 or later, as postgres://user:password@host:port/database. The connection to
    /// another host is encrypted unless the URL has sslmode=disable; sslmode=verify-full with
    /// sslrootcert=FILE also verifies the server. Without a URL the service runs an embedded
    /// PostgreSQL on --data-dir.
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Login that migrates and prunes. It must be a member of `customer_accounts_owner`, which owns
    /// the tables, or (to migrate) may create roles. By default the login of `DATABASE_URL`, which
    /// should be neither.
    #[arg(
        long,
        global = true,
        env = "CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL",
        hide_env_values = true
    )]
    pub migration_database_url: Option<String>,

    /// Role that the service sets after login; `--database-role=` to keep the role of the login. It
    /// must not be a superuser, own tables or bypass row-level security.
    #[arg(
        long,
        global = true,
        env = "CUSTOMER_ACCOUNTS_DATABASE_ROLE",
        default_value = "customer_accounts_app"
    )]
    pub database_role: String,

    /// Whether the login may be able to bypass row-level security, such as a superuser. For
    /// development; the login of the embedded PostgreSQL always is one.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN",
          default_value_t = false, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_privileged_login: bool,

    /// Whether `serve` applies missing migrations before it serves. Safe with several replicas.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MIGRATE", default_value_t = true,
          action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// Folder of the embedded PostgreSQL.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,

    /// Most database connections. The embedded PostgreSQL always has one.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_SIZE", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pool_size: u32,

    /// Most database connections beside the pool, for reads of one account and checks of
    /// memberships: calls that arrive while these are under way are sent together. 0 sends each
    /// through the pool. The embedded PostgreSQL has none.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_READ_LANES", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(0..=16))]
    pub read_lanes: u32,

    /// How long a call waits for a database connection, at most 1s.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_WAIT", default_value = "800ms",
          value_parser = at_most_a_second)]
    pub pool_wait: Duration,

    /// Age at which a database connection is replaced.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_MAX_LIFETIME", default_value = "30m",
          value_parser = duration)]
    pub pool_max_lifetime: Duration,

    /// How long a change waits for a lock of another transaction before it fails with ABORTED. Must
    /// be less than the deadline of calls.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LOCK_TIMEOUT", default_value = "2s",
          value_parser = not_zero)]
    pub lock_timeout: Duration,

    /// How long a transaction may be idle before the database ends it and releases its locks, such
    /// as after the crash of a replica.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_IDLE_IN_TRANSACTION_TIMEOUT",
          default_value = "5s", value_parser = not_zero)]
    pub idle_in_transaction_timeout: Duration,

    /// Time from which on a statement is slow: it is logged without its values, with its call and
    /// tenant. 0s logs none.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_SLOW_STATEMENT", default_value = "1s",
          value_parser = duration)]
    pub slow_statement: Duration,

    /// Most calls at once, on all connections together; further calls fail with RESOURCE_EXHAUSTED.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CALLS", default_value_t = 1024,
          value_parser = at_least_one)]
    pub max_calls: usize,

    /// The share of --max-calls, --max-watches, --max-transfers, --max-buffered-bytes and --pool-size
    /// that one tenant may use at once, in percent; at least one of each.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TENANT_SHARE", value_name = "PERCENT",
          default_value = "75", value_parser = Percent::parse)]
    pub tenant_share: Percent,

    /// Most calls at once on one connection.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_STREAMS", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: u32,

    /// Largest request message in bytes, after decompression.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_MESSAGE_BYTES",
          default_value_t = 1024 * 1024, value_parser = at_least_one)]
    pub max_message_bytes: usize,

    /// Size in bytes above which an answer is compressed with gzip, for clients that accept it;
    /// `never` compresses none.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_COMPRESS_ABOVE", value_name = "BYTES",
          default_value = "32768", value_parser = bytes_or_never)]
    pub compress_above: usize,

    /// Most bytes of requests that are being received and of answers that clients have not received
    /// yet, of all calls together; further calls fail with RESOURCE_EXHAUSTED. The first 16 KiB of
    /// each are not counted.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_BUFFERED_BYTES",
          default_value_t = 32 * 1024 * 1024, value_parser = at_least_one)]
    pub max_buffered_bytes: usize,

    /// Deadline of a call whose caller sets none.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_DEFAULT_DEADLINE", default_value = "10s",
          value_parser = duration)]
    pub default_deadline: Duration,

    /// Longest deadline of a call; a longer one is shortened.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_DEADLINE", default_value = "60s",
          value_parser = duration)]
    pub max_deadline: Duration,

    /// How long a client may take to receive an answer, or each message of a watch, before the call
    /// is cancelled.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_ANSWER_TIMEOUT", default_value = "30s",
          value_parser = not_zero)]
    pub answer_timeout: Duration,

    /// Most watches at once, on all connections together; further watches fail with
    /// RESOURCE_EXHAUSTED.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_WATCHES", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_watches: u32,

    /// Most imports and exports of accounts at once, on all connections together; further ones fail
    /// with RESOURCE_EXHAUSTED. Each import holds a database connection while it writes a batch.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_TRANSFERS", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_transfers: u32,

    /// How often a watch polls for changes of other replicas. Changes of its own replica reach it
    /// at once.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_POLL_INTERVAL",
          default_value = "500ms", value_parser = duration)]
    pub watch_poll_interval: Duration,

    /// How long a watch without changes waits before it sends a checkpoint.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_CHECKPOINT_INTERVAL",
          default_value = "15s", value_parser = duration)]
    pub watch_checkpoint_interval: Duration,

    /// Age at which a watch, an import or an export ends, so that the caller's credentials are
    /// checked again when it reconnects.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_MAX_AGE", default_value = "1h",
          value_parser = duration)]
    pub watch_max_age: Duration,

    /// Least number of days that tenants keep activities. Administrators of tenants cannot choose
    /// fewer, and `prune` deletes no younger ones, so that nobody can soon remove their traces.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MIN_ACTIVITY_RETENTION",
          value_name = "DAYS", default_value_t = 30,
          value_parser = clap::value_parser!(i32).range(1..=36_500))]
    pub min_activity_retention: i32,

    /// Time between NOT_SERVING and the end of new connections at shutdown, in which load balancers
    /// notice.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_SHUTDOWN_DELAY", default_value = "0s",
          value_parser = duration)]
    pub shutdown_delay: Duration,

    /// Time after a shutdown signal at which the service exits, even with calls under way.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_SHUTDOWN_DEADLINE", default_value = "25s",
          value_parser = duration)]
    pub shutdown_deadline: Duration,

    /// Whether the service has gRPC reflection, which grpcurl uses to find the calls.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_REFLECTION", default_value_t = true,
          action = clap::ArgAction::Set)]
    pub reflection: bool,

    /// Address at which Prometheus finds metrics, by plain HTTP at /metrics: an IP address or a
    /// name, and a port. Without it they are not served. Whoever reaches it needs no credentials.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_METRICS_LISTEN", value_name = "HOST:PORT",
          value_parser = Listen::parse)]
    pub metrics_listen: Option<Listen>,

    /// Which log lines are written: a level (off, error, warn, info, debug, trace), or a list of
    /// levels and targets such as `warn,customer_accounts=debug`.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LOG", default_value = "info",
          value_parser = crate::telemetry::log_filter)]
    pub log: String,

    /// Format of log lines.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// TLS, connection limits, and the programs that may connect.
    #[command(flatten)]
    pub transport: Transport,

    /// How tokens are verified.
    #[command(flatten)]
    pub tokens: TokenOptions,
}

/// The options of connections: TLS, limits, and the workloads that may connect.
#[derive(Debug, Clone, Args)]
pub struct Transport {
    /// PEM file with the service's certificate, followed by those of its intermediate authorities.
    /// With it every connection must use TLS.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities that sign clients' certificates. With it every client must
    /// have a certificate (mutual TLS).
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// How often the service reads the TLS files. It uses new content that is the same at two reads
    /// in a row.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_RELOAD_INTERVAL", default_value = "5s",
          value_parser = not_zero)]
    pub tls_reload_interval: Duration,

    /// PEM file with the certificate that commands which call a service present under mutual TLS;
    /// --tls-cert by default.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,

    /// PEM file with the private key of --client-cert.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,

    /// Workloads that may call, separated by commas: SPIFFE IDs, also with a wildcard such as
    /// `spiffe://example.org/ns/shop/*`, and DNS names. If empty, any may call. Needs
    /// --tls-client-ca or --mesh-header.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_ALLOWED_WORKLOADS", default_value = "",
          value_parser = Workloads::parse, hide_default_value = true)]
    pub allowed_workloads: Workloads,

    /// Header in which the proxy of a service mesh names the workload: x-forwarded-client-cert, or
    /// l5d-client-id. If empty, no header is trusted. Only for a service that clients can reach
    /// only through the proxy.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MESH_HEADER", default_value = "",
          value_parser = MeshHeader::parse, hide_default_value = true)]
    pub mesh_header: MeshHeader,

    /// Workloads whose --mesh-header is trusted, written as in --allowed-workloads. Needs
    /// --tls-client-ca. If empty, that of every peer is.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MESH_PROXIES", default_value = "",
          value_parser = Workloads::parse, hide_default_value = true)]
    pub mesh_proxies: Workloads,

    /// Most open connections; further ones are closed at once.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTIONS", default_value_t = 1000,
          value_parser = at_least_one)]
    pub max_connections: usize,

    /// Most open connections from one address (of IPv6, from one /64 network). Behind a proxy or a
    /// load balancer that makes the connections, all clients have its address: choose the value of
    /// --max-connections then.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTIONS_PER_PEER",
          default_value_t = 250, value_parser = at_least_one)]
    pub max_connections_per_peer: usize,

    /// Time after which a connection without calls is closed. Clients open another when they need
    /// one.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTION_IDLE", default_value = "5m",
          value_parser = not_zero)]
    pub max_connection_idle: Duration,

    /// Age at which a connection accepts no further calls. Clients open another without an error.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTION_AGE", default_value = "30m",
          value_parser = not_zero)]
    pub max_connection_age: Duration,

    /// Time that calls then have to end before the connection is closed.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTION_GRACE",
          default_value = "65s", value_parser = not_zero)]
    pub max_connection_grace: Duration,

    /// Most calls of health and reflection, which need no identity, at once on one connection.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_ANONYMOUS_CALLS", default_value_t = 16,
          value_parser = at_least_one)]
    pub max_anonymous_calls: usize,

    /// Time that a peer has for the TLS handshake, for the HTTP/2 preface, and for the headers of
    /// each call after their first byte.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_HANDSHAKE_TIMEOUT", default_value = "5s",
          value_parser = not_zero)]
    pub handshake_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_option_is_an_environment_variable_of_its_own() {
        let options = Config::augment_args(clap::Command::new("x"));
        let mut names = BTreeSet::new();
        for argument in options.get_arguments() {
            let is_own = argument.get_env().is_some_and(|name| names.insert(name));
            assert!(
                is_own,
                "{} has no variable, or that of another: {:?}",
                argument.get_id(),
                argument.get_env()
            );
        }
    }
}

//! The configuration: one struct, whose `--help` is the manual. Every option is also an environment variable.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    caller::{mesh::MeshHeader, workload::Workloads},
    telemetry::LogFormat,
};

/// Customer Accounts: a multi-tenant gRPC service for the accounts of B2B customers.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Cli {
    /// What to do; `serve` without a command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What all commands share.
    #[command(flatten)]
    pub config: Config,
}

/// What to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Serve gRPC until SIGTERM or SIGINT (the default).
    Serve,
    /// Bring the database to the schema of this version, or revert migrations.
    Migrate {
        /// Revert the last N migrations instead; what they hold is lost.
        #[arg(long, value_name = "N")]
        revert: Option<usize>,
    },
    /// Check configuration and database, and exit with 0 if the service could serve.
    Check,
    /// Delete activities that are older than their tenant keeps them. Uses the login that migrates; to be run every day or so.
    Prune,
    /// Ask a running service on --listen for its readiness, and exit with 0 if it is ready. For container probes.
    Healthcheck,
    /// Fill the tenant `demo` of a running service on --listen with a small, realistic example.
    Seed,
}

/// The options of the service.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to serve on.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// PostgreSQL 15 or later, as postgres://user:password@host:port/database. Without it the service runs an embedded
    /// PostgreSQL on --data-dir.
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Login that migrates, where it is another than the one that serves. It may create roles, or is a
    /// member of `customer_accounts_owner`, which owns the tables.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL", hide_env_values = true)]
    pub migration_database_url: Option<String>,

    /// Role that the service changes to after login; empty to stay the login. It must be no superuser, own nothing and not
    /// bypass row-level security.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_DATABASE_ROLE", default_value = "customer_accounts_app")]
    pub database_role: String,

    /// Whether `serve` migrates before it serves. Safe with several replicas.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// Folder of the embedded PostgreSQL.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,

    /// Database connections at most. The embedded PostgreSQL always has one.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_SIZE", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pool_size: u32,

    /// How long a call waits for a database connection: at most 1s.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_WAIT", default_value = "800ms", value_parser = at_most_a_second)]
    pub pool_wait: Duration,

    /// After how long a database connection is replaced by a new one.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_POOL_MAX_LIFETIME", default_value = "30m", value_parser = duration)]
    pub pool_max_lifetime: Duration,

    /// Calls under way at once, on all connections together; further ones are refused with RESOURCE_EXHAUSTED.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CALLS", default_value_t = 1024, value_parser = at_least_one)]
    pub max_calls: usize,

    /// Calls under way at once on one connection.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_STREAMS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: u32,

    /// Largest request message in bytes.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_MESSAGE_BYTES", default_value_t = 4 * 1024 * 1024, value_parser = at_least_one)]
    pub max_message_bytes: usize,

    /// Time a call has when its caller sets no deadline.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_DEFAULT_DEADLINE", default_value = "10s", value_parser = duration)]
    pub default_deadline: Duration,

    /// Time a call has at most, whatever deadline its caller sets.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_DEADLINE", default_value = "60s", value_parser = duration)]
    pub max_deadline: Duration,

    /// Watches open at once, on all connections together; further ones are refused with RESOURCE_EXHAUSTED.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_WATCHES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_watches: u32,

    /// How often a watch looks for changes that other replicas have made; those of its own it hears of at once.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_POLL_INTERVAL", default_value = "500ms", value_parser = duration)]
    pub watch_poll_interval: Duration,

    /// After how long without changes a watch is sent a checkpoint.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_CHECKPOINT_INTERVAL", default_value = "15s", value_parser = duration)]
    pub watch_checkpoint_interval: Duration,

    /// After how long a watch is ended, so that its caller's credentials are looked at again when it comes back.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_MAX_AGE", default_value = "1h", value_parser = duration)]
    pub watch_max_age: Duration,

    /// Time between NOT_SERVING and the refusal of new connections at shutdown, for load balancers to notice.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_SHUTDOWN_DELAY", default_value = "0s", value_parser = duration)]
    pub shutdown_delay: Duration,

    /// Time after a shutdown signal at which the service exits, whatever is still under way.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_SHUTDOWN_DEADLINE", default_value = "25s", value_parser = duration)]
    pub shutdown_deadline: Duration,

    /// Whether gRPC reflection is served, which grpcurl needs to know the calls.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,

    /// Which log lines are written: `info`, or directives such as `warn,customer_accounts=debug`.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LOG", default_value = "info")]
    pub log: String,

    /// How log lines look.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// How connections are made safe, and by which programs.
    #[command(flatten)]
    pub transport: Transport,
}

/// The options of connections: TLS, and the workloads at their other end.
#[derive(Debug, Clone, Args)]
pub struct Transport {
    /// PEM file with the service's certificate, followed by those of its intermediate authorities. With it connections must be
    /// TLS.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities that sign clients' certificates. With it every client must have one (mutual TLS).
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// How often the TLS files are looked at for new contents, which must be the same twice in a row.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_TLS_RELOAD_INTERVAL", default_value = "5s", value_parser = some_time)]
    pub tls_reload_interval: Duration,

    /// PEM file with the certificate that `healthcheck` and `seed` show under mutual TLS, if it is not --tls-cert.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,

    /// PEM file with the private key of --client-cert.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,

    /// Workloads that may call, separated by commas: SPIFFE IDs, also as `spiffe://example.org/ns/shop/*`, and DNS names. Any if
    /// empty. Needs --tls-client-ca or --mesh-header.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_ALLOWED_WORKLOADS", default_value = "", value_parser = Workloads::parse, hide_default_value = true)]
    pub allowed_workloads: Workloads,

    /// Header by which the proxy of a service mesh names the workload: x-forwarded-client-cert, or l5d-client-id. None is
    /// believed if empty. Only for a service that can be reached through the proxy alone.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MESH_HEADER", default_value = "", value_parser = MeshHeader::parse, hide_default_value = true)]
    pub mesh_header: MeshHeader,

    /// Workloads whose --mesh-header is believed, as in --allowed-workloads. Needs --tls-client-ca. Without it, every peer's is.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MESH_PROXIES", default_value = "", value_parser = Workloads::parse, hide_default_value = true)]
    pub mesh_proxies: Workloads,

    /// Open connections at most; further ones are closed at once.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CONNECTIONS", default_value_t = 1000, value_parser = at_least_one)]
    pub max_connections: usize,

    /// Time that a peer has for the TLS handshake and the first bytes of HTTP/2.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_HANDSHAKE_TIMEOUT", default_value = "5s", value_parser = some_time)]
    pub handshake_timeout: Duration,
}

/// Longest duration of an option.
const LONGEST: Duration = Duration::from_hours(720);

/// A duration as people write it: `250ms`, `10s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number and one of ms, s, m, h: 250ms, 10s".to_owned()),
    };
    let amount: u64 = amount.parse().map_err(|_| "a duration begins with a number: 250ms, 10s".to_owned())?;
    let duration = amount.checked_mul(millis).map(Duration::from_millis).filter(|duration| *duration <= LONGEST);
    duration.ok_or_else(|| "a duration is at most 720h".to_owned())
}

fn at_most_a_second(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&wait) { Ok(wait) } else { Err("from 1ms to 1s".to_owned()) }
}

fn some_time(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("at least 1ms".to_owned()) } else { Ok(time) })
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number >= 1).ok_or_else(|| "a number from 1 on".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_an_environment_variable() {
        for argument in Config::augment_args(clap::Command::new("x")).get_arguments() {
            assert!(argument.get_env().is_some(), "{}", argument.get_id());
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in ["", "5", "s", "-5s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h", "721h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(at_most_a_second("2s").is_err());
    }
}

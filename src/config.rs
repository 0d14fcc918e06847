//! The configuration: one struct, whose `--help` is the manual. Every option is also an environment
//! variable.

mod help;
mod listen;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use http::Uri;

pub use self::listen::Listen;

use crate::{
    caller::{mesh::MeshHeader, workload::Workloads},
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
            Some(Command::Healthcheck | Command::Seed { .. } | Command::Token(_)) => false,
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
    /// Ask a running service on --listen for its readiness, and exit with 0 if it is ready. For
    /// container probes.
    Healthcheck,
    /// Fill the tenant `demo` of a running service on --listen with a small, realistic example.
    #[command(after_help = help::SEED)]
    Seed {
        /// A token of an administrator of the tenant `demo`, for a service that requires tokens.
        #[arg(long, env = "CUSTOMER_ACCOUNTS_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Make a token for development and print it. Signs it with a key of your own, which the first
    /// use makes. Prints to stderr which options a service needs to accept the key.
    #[command(after_help = help::TOKEN)]
    Token(DevelopmentToken),
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
            Self::Healthcheck => "healthcheck",
            Self::Seed { .. } => "seed",
            Self::Token(_) => "token",
        }
    }
}

/// The content of a token for development.
#[derive(Debug, Clone, Args)]
pub struct DevelopmentToken {
    /// The tenant.
    #[arg(long, default_value = "demo")]
    pub tenant: String,

    /// The subject: who acts.
    #[arg(long, default_value = "developer")]
    pub subject: String,

    /// The roles: viewer, editor, admin; several with commas.
    #[arg(long, default_value = "admin", value_delimiter = ',',
          value_parser = ["viewer", "editor", "admin"])]
    pub roles: Vec<String>,

    /// Whether the subject reaches the whole tenant. Administrators always do.
    #[arg(long)]
    pub tenant_wide: bool,

    /// How long the token is valid.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub expires_in: Duration,

    /// Folder of the key; --data-dir by default.
    #[arg(long)]
    pub key_dir: Option<PathBuf>,
}

/// The options of the service.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to serve on: an IP address or a name, and a port. Commands that call a running
    /// service connect to it.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_LISTEN", value_name = "HOST:PORT",
          default_value = "127.0.0.1:50051", value_parser = Listen::parse)]
    pub listen: Listen,

    /// PostgreSQL 15 or later, as postgres://user:password@host:port/database. Without it the
    /// service runs an embedded PostgreSQL on --data-dir.
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

    /// Most calls at once, on all connections together; further calls fail with RESOURCE_EXHAUSTED.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_MAX_CALLS", default_value_t = 1024,
          value_parser = at_least_one)]
    pub max_calls: usize,

    /// The share of --max-calls, --max-watches, --max-buffered-bytes and --pool-size that one
    /// tenant may use at once, in percent; at least one of each.
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

    /// How often a watch polls for changes of other replicas. Changes of its own replica reach it
    /// at once.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_POLL_INTERVAL",
          default_value = "500ms", value_parser = duration)]
    pub watch_poll_interval: Duration,

    /// How long a watch without changes waits before it sends a checkpoint.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_WATCH_CHECKPOINT_INTERVAL",
          default_value = "15s", value_parser = duration)]
    pub watch_checkpoint_interval: Duration,

    /// Age at which a watch ends, so that the caller's credentials are checked again when it
    /// reconnects.
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

    /// PEM file with the certificate that `healthcheck` and `seed` present under mutual TLS;
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

/// How tokens are verified. Without an issuer there are no tokens, and the service trusts what
/// every caller says (development identity).
#[derive(Debug, Clone, Args)]
pub struct TokenOptions {
    /// Issuer of tokens and its keys: the exact `iss` of its tokens, and the https URL (http on
    /// loopback) or the file of its JSON Web Key Set. Can be given several times, or as a list with
    /// commas.
    #[arg(long = "token-issuer", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ISSUER",
          value_name = "ISSUER=JWKS", value_delimiter = ',', value_parser = token_issuer)]
    pub issuers: Vec<TokenIssuer>,

    /// The `aud` of tokens for this service; required with --token-issuer. If there are several, a
    /// token needs one of them.
    #[arg(long = "token-audience", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_AUDIENCE",
          value_name = "AUDIENCE", value_delimiter = ',', value_parser = not_empty)]
    pub audiences: Vec<String>,

    /// Prefix of the actors of an issuer: its `iss`, an equals sign and up to 50 characters that
    /// precede the `sub`. Several issuers must have different prefixes (one may have none); issuers
    /// with the same explicit prefix name the same people. Can be given several times, or as a list
    /// with commas.
    #[arg(long = "token-actor-prefix", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ACTOR_PREFIX",
          value_name = "ISSUER=PREFIX", value_delimiter = ',', value_parser = actor_prefix)]
    pub actor_prefixes: Vec<ActorPrefix>,

    /// Claim with the tenant: its name, or a JSON pointer that begins with a slash, such as
    /// /app/tenant.
    #[arg(long = "token-tenant-claim", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_TENANT_CLAIM",
          value_name = "CLAIM", default_value = "tenant_id", value_parser = not_empty)]
    pub tenant_claim: String,

    /// Claim with the roles, an array or a text with blanks between them; named like the tenant's.
    #[arg(long = "token-roles-claim", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ROLES_CLAIM",
          value_name = "CLAIM", default_value = "roles", value_parser = not_empty)]
    pub roles_claim: String,

    /// Claim that is true for callers who reach the whole tenant; named like the tenant's.
    #[arg(long = "token-tenant-wide-claim", global = true,
          env = "CUSTOMER_ACCOUNTS_TOKEN_TENANT_WIDE_CLAIM", value_name = "CLAIM",
          default_value = "tenant_wide", value_parser = not_empty)]
    pub tenant_wide_claim: String,

    /// How far the clocks of issuer and service may differ; 0s to 5m.
    #[arg(long = "token-leeway", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_LEEWAY",
          default_value = "30s", value_parser = at_most_five_minutes)]
    pub leeway: Duration,

    /// Most verified tokens in the cache, each for at most five minutes.
    #[arg(long = "token-cache-size", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_CACHE_SIZE",
          default_value_t = 10_000, value_parser = at_least_one)]
    pub cache_size: usize,

    /// How often the service fetches an issuer's keys again while they are valid. It reads a file
    /// as often as --jwks-floor allows.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_REFRESH", default_value = "10m",
          value_parser = not_zero)]
    pub jwks_refresh: Duration,

    /// Least time between two fetches of an issuer's keys, whatever key ids tokens name.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_FLOOR", default_value = "5s",
          value_parser = not_zero)]
    pub jwks_floor: Duration,

    /// How long an issuer's keys are used after their last successful fetch.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_MAX_STALE", default_value = "24h",
          value_parser = not_zero)]
    pub jwks_max_stale: Duration,

    /// Most calls that wait for the keys of one issuer at once; further calls fail with
    /// UNAVAILABLE.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_MAX_WAITING", default_value_t = 128,
          value_parser = at_least_one)]
    pub jwks_max_waiting: usize,
}

impl TokenOptions {
    /// The prefix that was given for an issuer, if any.
    pub fn prefix_of(&self, issuer: &str) -> Option<&str> {
        self.actor_prefixes.iter().find(|of| of.issuer == issuer).map(|of| &*of.prefix)
    }
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// Where the service reads its keys.
    pub keys: KeySource,
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An https URL, or an http URL of this machine.
    Url(Uri),
    /// A file.
    File(PathBuf),
}

fn token_issuer(text: &str) -> Result<TokenIssuer, String> {
    const FORM: &str = "as https://issuer.example=https://issuer.example/keys, or with the path of \
                        a file after the `=`";
    let (issuer, keys) = text
        .split_once('=')
        .filter(|(issuer, keys)| !issuer.is_empty() && !keys.is_empty())
        .ok_or(FORM)?;
    let keys = if keys.contains("://") {
        let uri: Uri =
            keys.parse().map_err(|error| format!("{keys} is no URL: {error}; {FORM}"))?;
        let allowed = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => uri.host().is_some_and(is_this_machine),
            _ => false,
        };
        if !allowed {
            return Err(format!(
                "{keys}: keys come by https, or by http from a loopback address; {FORM}"
            ));
        }
        KeySource::Url(uri)
    } else {
        KeySource::File(keys.into())
    };
    Ok(TokenIssuer { issuer: issuer.to_owned(), keys })
}

/// The prefix that turns the subjects of an issuer into actors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorPrefix {
    /// The exact `iss`.
    pub issuer: String,
    /// The text that precedes `sub`.
    pub prefix: String,
}

/// Most characters of a prefix.
const MAX_PREFIX: usize = 50;

fn actor_prefix(text: &str) -> Result<ActorPrefix, String> {
    let (issuer, prefix) = text.split_once('=').ok_or("as https://partner.example=partner:")?;
    if issuer.is_empty()
        || prefix.chars().count() > MAX_PREFIX
        || prefix.chars().any(char::is_control)
    {
        return Err(format!(
            "an issuer, an equals sign and up to {MAX_PREFIX} characters, none of them a control \
             character"
        ));
    }
    Ok(ActorPrefix { issuer: issuer.to_owned(), prefix: prefix.to_owned() })
}

fn is_this_machine(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// Longest duration that an option accepts.
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
    let amount: u64 =
        amount.parse().map_err(|_| "a duration begins with a number: 250ms, 10s".to_owned())?;
    let duration = amount
        .checked_mul(millis)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST);
    duration.ok_or_else(|| "a duration is at most 720h".to_owned())
}

fn at_most_a_second(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&wait) {
        Ok(wait)
    } else {
        Err("from 1ms to 1s".to_owned())
    }
}

fn at_most_five_minutes(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time <= Duration::from_mins(5) { Ok(time) } else { Err("from 0s to 5m".to_owned()) }
    })
}

fn not_zero(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("from 1ms on".to_owned()) } else { Ok(duration) }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number >= 1).ok_or_else(|| "a number from 1 on".to_owned())
}

fn bytes_or_never(text: &str) -> Result<usize, String> {
    if text == "never" {
        Ok(usize::MAX)
    } else {
        text.parse().map_err(|_| "a number of bytes, or `never`".to_owned())
    }
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

    #[test]
    fn issuers_of_tokens() {
        let source = |text: &str| token_issuer(text).map(|issuer| (issuer.issuer, issuer.keys));
        let (name, uri) = ("https://i.example/a", "https://i.example/keys?app=x=y");
        assert_eq!(
            source(&format!("{name}={uri}")),
            Ok((name.into(), KeySource::Url(uri.parse().unwrap())))
        );
        assert_eq!(
            source("dev=/a/b.json"),
            Ok(("dev".into(), KeySource::File("/a/b.json".into())))
        );
        for good in [
            "i=http://127.0.0.1:80/",
            "i=http://[::1]/k",
            "i=http://localhost:8080/k",
            "i=https://10.0.0.1/k",
        ] {
            assert!(matches!(source(good), Ok((_, KeySource::Url(_)))), "{good}");
        }
        for bad in [
            "",
            "https://i.example",
            "=k",
            "i=",
            "i=http://i.example/k",
            "i=http://localhost.example/k",
            "i=ftp://h/k",
            "i=file:///k",
            "i=https://",
        ] {
            assert!(source(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5d",
            "99999999999999999999s",
            "18446744073709551615h",
            "721h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(
            at_most_a_second("1s").is_ok()
                && at_most_a_second("2s").is_err()
                && at_most_a_second("0s").is_err()
        );
        assert!(at_most_five_minutes("0s").is_ok() && at_most_five_minutes("5m").is_ok());
        assert!(
            at_most_five_minutes("6m").is_err()
                && not_zero("0s").is_err()
                && not_zero("1ms").is_ok()
        );
    }
}

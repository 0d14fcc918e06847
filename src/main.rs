//! Parses the command line, starts telemetry and runs the command.

use std::{
    convert::Infallible,
    error::Error,
    fs,
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use customer_accounts::{
    caller::{Identity, development_key},
    config::{Cli, Command, Config, Health, Listen},
    db::{self, Bounds, Db, Manager, migrate, migrate::MigrateError, prune, transfer},
    files::{self, options::Target},
    proto::DESCRIPTORS,
    renew, seed,
    server::{self, LIVENESS, READINESS},
    telemetry::{self, Telemetry},
    tls,
};
use futures_util::future::LocalBoxFuture;
use tokio::{net::TcpListener, runtime, signal, time::timeout};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[cfg(feature = "embedded")]
use customer_accounts::db::embedded::{self, Embedded};
/// Has no values: without the feature there is no embedded server.
#[cfg(not(feature = "embedded"))]
type Embedded = Infallible;

type Outcome = Result<(), Box<dyn Error>>;

const LISTEN: &str = "--listen";
const METRICS_LISTEN: &str = "--metrics-listen";
/// How long a command waits for the running service to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a call waits for the only connection of the embedded server.
#[cfg(feature = "embedded")]
const EMBEDDED_WAIT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for blocking work.
const BLOCKING_WORK: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    #[cfg(feature = "embedded")]
    if let Some(data_dir) = cli.embedded_data_dir() {
        embedded::keep_cache_in(data_dir);
    }
    let serves = matches!(cli.command, None | Some(Command::Serve));
    let options = telemetry::Options {
        log: cli.config.log.clone(),
        log_format: cli.config.log_format,
        serves_metrics: serves && cli.config.metrics_listen.is_some(),
    };
    let (runtime, telemetry) = match start(&options) {
        Ok(started) => started,
        Err(error) => return fail(&*error),
    };
    let outcome = runtime.block_on(run(cli.command.unwrap_or(Command::Serve), &cli.config));
    runtime.shutdown_timeout(BLOCKING_WORK);
    telemetry.shutdown();
    outcome.unwrap_or_else(|error| fail(&*error))
}

fn start(options: &telemetry::Options) -> Result<(runtime::Runtime, Telemetry), Box<dyn Error>> {
    let telemetry = telemetry::start(options)?;
    Ok((runtime::Builder::new_multi_thread().enable_all().build()?, telemetry))
}

fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn run(command: Command, config: &Config) -> Result<ExitCode, Box<dyn Error>> {
    let name = command.name();
    let done: Outcome = match command {
        Command::Import(options) => {
            let connect = || to_service(config, &options.target);
            // Signals end the import behind what is under way from here on.
            drop(stop_signal()?);
            let interrupts = || -> LocalBoxFuture<'static, ()> {
                match stop_signal() {
                    Ok(stop) => Box::pin(stop),
                    Err(_) => Box::pin(pending()),
                }
            };
            return Ok(files::import(&options, connect, &interrupts).await.into());
        }
        Command::Export(options) => {
            let connect = || to_service(config, &options.target);
            let interrupt = Box::pin(stop_signal()?);
            let server = options.target.server.as_ref().map(ToString::to_string);
            let address = server.unwrap_or_else(|| config.listen.to_string());
            return Ok(files::export(&options, &address, connect, interrupt).await.into());
        }
        Command::Serve => serve(config).await,
        Command::Migrate { revert } => {
            let database = Database::open(config, name).await?;
            let direction = revert.map_or(migrate::Direction::Up, migrate::Direction::Down);
            let versions = migrate::run(&database.migrator, direction).await?;
            let done = if revert.is_some() { "reverted" } else { "applied" };
            println!(
                "{done}: {}",
                if versions.is_empty() { "nothing".to_owned() } else { versions.join(", ") }
            );
            if revert.is_none() {
                let renewed = renew::run(&database.migrator).await?.rows();
                println!("renewed: {renewed} rows");
            }
            database.close().await;
            Ok(())
        }
        Command::Transfer => transfer(config, name).await,
        Command::Check => {
            server::identity_on(config, &config.listen.resolve(LISTEN).await?)?;
            if let Some(address) = &config.metrics_listen {
                address.resolve(METRICS_LISTEN).await?;
            }
            server::check_transport(config).await?;
            let database = Database::open_existing(config, name).await?;
            let verified = database.db.verify().await;
            database.close().await;
            verified?;
            println!("configuration and database are fine");
            Ok(())
        }
        Command::Prune => {
            let database = Database::open_existing(config, name).await?;
            let pruned = prune::run(&database.migrator, config.min_activity_retention).await;
            database.close().await;
            let (tenants, activities) = pruned?;
            println!("pruned: {activities} activities of {tenants} tenants");
            Ok(())
        }
        Command::Healthcheck { service } => healthcheck(config, service).await,
        Command::Seed { token } => {
            let seeded = seed::seed(connect(config).await?, token.as_deref()).await?;
            println!(
                "tenant demo: {} resources created, {} already there",
                seeded.created, seeded.kept
            );
            Ok(())
        }
        Command::Token(options) => {
            let made = development_key::make(&options, &config.tokens, &config.data_dir)?;
            let (issuer, key_set) = (development_key::ISSUER, made.key_set.display());
            eprintln!(
                "serve with: --token-issuer {issuer}={key_set} --token-audience {}",
                made.audience
            );
            println!("{}", made.token);
            Ok(())
        }
        Command::Descriptors { file } => {
            if file.as_os_str() == "-" {
                io::stdout().write_all(DESCRIPTORS)?;
            } else {
                fs::write(&file, DESCRIPTORS)
                    .map_err(|error| format!("{}: {error}", file.display()))?;
            }
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

async fn transfer(config: &Config, name: &str) -> Outcome {
    if config.database_url.is_none() {
        return Err("DATABASE_URL is not set: set it to the database that receives the data".into());
    }
    if !config.data_dir.exists() {
        return Err(format!(
            "there is no embedded database in {} (--data-dir)",
            config.data_dir.display()
        )
        .into());
    }
    let target = Database::open(config, name).await?;
    let source = Database::open_embedded(config, None).await?;
    let copied = async {
        migrate::run(&source.migrator, migrate::Direction::Up).await?;
        migrate::run(&target.migrator, migrate::Direction::Up).await?;
        Ok::<_, Box<dyn Error>>(transfer::run(&source.migrator, &target.migrator).await?)
    };
    let copied = copied.await;
    source.close().await;
    println!("transferred: {} rows", copied?);
    Ok(())
}

async fn serve(config: &Config) -> Outcome {
    // From here on a signal stops the service gracefully, also while it starts.
    let mut stop = pin!(stop_signal()?);
    // Checked before anything is created or waited for. `server::serve` checks again.
    let addresses = config.listen.resolve(LISTEN).await?;
    let identity = server::identity_on(config, &addresses)?;
    server::check_transport(config).await?;
    let listener = bind(LISTEN, &config.listen, &addresses).await?;
    let metrics = match &config.metrics_listen {
        Some(address) => {
            let addresses = address.resolve(METRICS_LISTEN).await?;
            Some(bind(METRICS_LISTEN, address, &addresses).await?)
        }
        None => None,
    };
    let database = tokio::select! {
        database = database_to_serve(config) => database?,
        () = &mut stop => return Ok(()),
    };
    let observed = database.db.clone();
    telemetry::observe_pools(move || observed.pools());
    welcome(listener.local_addr()?, &database, config, &identity);
    let served = tokio::select! {
        served = server::serve(listener, database.db.clone(), config, stop) => served,
        never = serve_metrics(metrics) => match never {},
    };
    database.close().await;
    Ok(served?)
}

async fn bind(
    option: &str,
    address: &Listen,
    addresses: &[SocketAddr],
) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(addresses).await;
    bound.map_err(|error| format!("{option} {address}: {error}"))
}

/// Serves metrics, if there is an address for them.
async fn serve_metrics(listener: Option<TcpListener>) -> Infallible {
    let Some(listener) = listener else { return pending().await };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "metrics are served at /metrics");
    }
    telemetry::serve_metrics(listener).await
}

/// Opens the database, and makes sure of the schema and the role that the service needs.
async fn database_to_serve(config: &Config) -> Result<Database, Box<dyn Error>> {
    let database = Database::open(config, Command::Serve.name()).await?;
    // The embedded server has only one connection, so its schema is not checked first but migrated
    // at once.
    if !database.is_embedded() {
        match database.db.verify().await {
            Ok(()) => return Ok(database),
            Err(error) if config.migrate && error.migrating_helps() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let versions = migrate::run(&database.migrator, migrate::Direction::Up).await?;
    if !versions.is_empty() {
        tracing::info!(?versions, "database migrated");
    }
    match database.db.verify().await {
        Err(MigrateError::NotRenewed) => {
            let renewed = renew::run(&database.migrator).await?;
            tracing::info!(?renewed, "words and sort keys renewed");
            database.db.verify().await?;
        }
        verified => verified?,
    }
    Ok(database)
}

/// Tells a person at a terminal what runs, and what to try next.
fn welcome(address: SocketAddr, database: &Database, config: &Config, identity: &Identity) {
    let store = if database.is_embedded() {
        format!("embedded PostgreSQL in {}", config.data_dir.display())
    } else {
        "PostgreSQL of DATABASE_URL".to_owned()
    };
    println!("customer-accounts {} serves on {address}, {store}", env!("CARGO_PKG_VERSION"));
    let safety = if config.transport.tls_cert.is_some() { "-cacert FILE" } else { "-plaintext" };
    if identity.believes_everybody() {
        println!(
            "No credentials are configured: a request names its own caller, by default role \
             `admin` of tenant `demo`.\n\
             Try, from another terminal:\n  \
             customer-accounts seed        (or: cargo run -- seed)\n  \
             grpcurl {safety} {address} list\n  \
             grpcurl {safety} -d '{{\"query\": \"acme\"}}' {address} \
             accounts.v1.AccountService/ListAccounts"
        );
    } else {
        println!(
            "Callers need a token of: {}",
            config
                .tokens
                .issuers
                .iter()
                .map(|issuer| &*issuer.issuer)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
}

/// The configured database: another server, or the embedded one, which runs as long as this value
/// lives.
struct Database {
    db: Db,
    migrator: Manager,
    embedded: Option<Embedded>,
}

impl Database {
    /// Opens the database for a command that needs an existing one.
    async fn open_existing(config: &Config, command: &str) -> Result<Self, Box<dyn Error>> {
        if config.database_url.is_none()
            && config.migration_database_url.is_none()
            && !config.data_dir.exists()
        {
            let dir = config.data_dir.display();
            return Err(format!(
                "DATABASE_URL is not set, and there is no embedded database in {dir} (--data-dir); \
                 `serve` creates one"
            )
            .into());
        }
        Self::open(config, command).await
    }

    /// Opens the database for this command, whose name becomes part of the `application_name`.
    async fn open(config: &Config, command: &str) -> Result<Self, Box<dyn Error>> {
        let role = (!config.database_role.is_empty()).then(|| config.database_role.clone());
        let Some(url) = &config.database_url else {
            // If it were ignored, a migration or a prune of the wrong database would succeed.
            if config.migration_database_url.is_some() {
                return Err("--migration-database-url is set, but not DATABASE_URL: set both, or \
                            neither for the embedded server"
                    .into());
            }
            return Self::open_embedded(config, role).await;
        };
        let name = format!("customer-accounts {} {command}", env!("CARGO_PKG_VERSION"));
        let parse = |option: &str, url: &str| match db::login(url) {
            Ok(login) => Ok(login.or_application_name(&name)),
            Err(error) => Err(format!("{option}: {error}")),
        };
        let login = parse("DATABASE_URL", url)?;
        let migrator = match &config.migration_database_url {
            Some(url) => parse("--migration-database-url", url)?,
            None => login.clone(),
        };
        let bounds = Bounds {
            lock_timeout: config.lock_timeout,
            idle_timeout: config.idle_in_transaction_timeout,
        };
        let manager = Manager::new(login, role)
            .with_bounds(bounds)
            .allow_privileged_login(config.allow_privileged_login)
            .warn_from(config.slow_statement);
        Ok(Self {
            db: Db::new(
                manager,
                config.pool_size,
                config.pool_wait,
                Some(config.pool_max_lifetime),
            )
            .with_tenant_share(config.tenant_share)
            .with_lanes(config.read_lanes as usize, Some(config.pool_max_lifetime)),
            migrator: Manager::new(migrator, None),
            embedded: None,
        })
    }

    #[cfg(feature = "embedded")]
    async fn open_embedded(config: &Config, role: Option<String>) -> Result<Self, Box<dyn Error>> {
        let embedded = Embedded::start(&config.data_dir).await?;
        let login = embedded.config();
        Ok(Self {
            // One connection, which takes long to open. It is opened again after a long statement
            // was given up.
            db: Db::new(
                Manager::new(login.clone(), role).embedded().warn_from(config.slow_statement),
                1,
                EMBEDDED_WAIT,
                None,
            ),
            migrator: Manager::new(login, None),
            embedded: Some(embedded),
        })
    }

    #[cfg(not(feature = "embedded"))]
    #[expect(clippy::unused_async, reason = "the same signature as with an embedded server")]
    async fn open_embedded(_: &Config, _: Option<String>) -> Result<Self, Box<dyn Error>> {
        Err("DATABASE_URL is not set, and this build has no embedded PostgreSQL (cargo feature \
             `embedded`)"
            .into())
    }

    const fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    #[cfg_attr(
        not(feature = "embedded"),
        expect(clippy::unused_async, reason = "there is nothing to wait for then")
    )]
    async fn close(self) {
        drop(self.db);
        if let Some(embedded) = self.embedded {
            #[cfg(feature = "embedded")]
            embedded.stop().await;
            #[cfg(not(feature = "embedded"))]
            match embedded {}
        }
    }
}

/// Completes at SIGTERM or SIGINT (where there are no such signals, at Ctrl-C).
fn stop_signal() -> Result<impl Future<Output = ()> + Send, io::Error> {
    #[cfg(unix)]
    {
        let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
        let mut interrupt = signal::unix::signal(signal::unix::SignalKind::interrupt())?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = signal::ctrl_c().await;
    })
}

/// Connects to the running service with this configuration.
async fn connect(config: &Config) -> Result<Channel, Box<dyn Error>> {
    let connected = timeout(ANSWER, async {
        let mut connected = Err("--listen: no address".into());
        for address in config.listen.resolve(LISTEN).await? {
            connected = tls::client::connect(address, &config.transport).await;
            if connected.is_ok() {
                break;
            }
        }
        connected
    });
    connected.await.map_err(|_| {
        format!("no service answers on {} (--listen) within {ANSWER:?}", config.listen)
    })?
}

/// Connects to the service of --server, or to that of --listen.
fn to_service(
    config: &Config,
    target: &Target,
) -> LocalBoxFuture<'static, Result<Channel, String>> {
    let (config, target) = (config.clone(), target.clone());
    Box::pin(async move {
        let connected = match &target.server {
            Some(url) => {
                tls::client::connect_to(url, target.tls_ca.as_deref(), &config.transport).await
            }
            None => connect(&config).await,
        };
        connected.map_err(|error| error.to_string())
    })
}

async fn healthcheck(config: &Config, service: Health) -> Outcome {
    let service = match service {
        Health::Readiness => READINESS,
        Health::Liveness => LIVENESS,
    };
    let address = &config.listen;
    let mut client = HealthClient::new(connect(config).await?);
    let check = client.check(HealthCheckRequest { service: service.to_owned() });
    let answer = timeout(ANSWER, check)
        .await
        .map_err(|_| format!("{address} does not answer within {ANSWER:?}"))??;
    let status = answer.into_inner().status();
    println!("{service}: {}", status.as_str_name());
    if status == ServingStatus::Serving { Ok(()) } else { Err("not serving".into()) }
}

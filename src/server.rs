//! The server: every service, layer and limit, health, and shutdown.

use std::{
    collections::BTreeSet,
    future::{Future, pending},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;
use tower::ServiceBuilder;

use crate::{
    account_types,
    accounts::{self, Transfers, dependents::Dependents},
    activities,
    caller::{Identity, IdentityError, workload::Admission},
    commerce,
    config::Config,
    contracts,
    db::Db,
    guard::{GuardLayer, Limits, MAX_ANONYMOUS_MESSAGE},
    incoming::Incoming,
    memberships, opportunities, organizations, overview, people,
    policy::{Policies, PolicyError},
    portfolios,
    proto::{
        DESCRIPTORS, account_service_server::AccountServiceServer,
        account_type_service_server::AccountTypeServiceServer,
        activity_service_server::ActivityServiceServer,
        commerce_service_server::CommerceServiceServer,
        contract_service_server::ContractServiceServer,
        membership_service_server::MembershipServiceServer,
        opportunity_service_server::OpportunityServiceServer,
        organization_service_server::OrganizationServiceServer,
        person_service_server::PersonServiceServer,
        portfolio_service_server::PortfolioServiceServer,
        tenant_service_server::TenantServiceServer,
    },
    streams::{Kind, Streams},
    telemetry::{RpcLayer, metrics::READY},
    tenants,
    tls::{Tls, TlsError},
    transfers, transport,
};

/// Health name of the process alone: it serves as long as it runs.
pub const LIVENESS: &str = "liveness";
/// Health name of the process with its database.
pub const READINESS: &str = "readiness";

/// How often the database is probed, and how long it may take to answer.
const PROBE: Duration = Duration::from_secs(1);
/// This many failed probes in a row end readiness, and as many successful ones restore it.
const PROBES_TO_CHANGE: u32 = 2;
/// How long a shutdown waits for streams without an end.
const STREAMS_END: Duration = Duration::from_secs(1);
/// Longest that connections stay open once no call is under way. They close by themselves when their
/// peer has answered GOAWAY, which takes a round trip: until then calls may be on their way.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// What a deletion of an account takes along, in the order in which it is deleted.
const OF_ACCOUNTS: &[&dyn Dependents] = &[
    &portfolios::OfAccount,
    &opportunities::OfAccount,
    &commerce::OfAccount,
    &contracts::OfAccount,
];

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Development identity on an address that is not a loopback one.
    #[error(
        "--listen {0}: without credentials configured a request names its own caller, so the \
         service serves on loopback addresses only, such as 127.0.0.1:50051; configure \
         --token-issuer and --token-audience"
    )]
    NotLoopback(SocketAddr),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An option about workloads, without one that names them.
    #[error("{0} is set, but not {1}: nothing would name the calling workload")]
    NamelessWorkloads(&'static str, &'static str),
    /// The configuration of identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A call without a policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The reflection service refuses the descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The address cannot be used.
    #[error("--listen: {0}")]
    Listen(#[from] std::io::Error),
}

/// Checks the configuration of connections, as `serve` does, before anything else is started.
pub async fn check_transport(config: &Config) -> Result<(), ServeError> {
    admission(config)?;
    Tls::load(&config.transport).await?;
    Ok(())
}

/// Serves on `listener` until `stop` completes. Then drains and returns, at the latest when the
/// shutdown deadline has passed.
pub async fn serve(
    listener: TcpListener,
    db: Db,
    config: &Config,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let identity = identity(config, listener.local_addr()?)?;
    let admission = admission(config)?;
    let tls = Tls::load(&config.transport).await?;
    let incoming = Incoming::new(listener, tls.as_ref().map(Tls::current), &config.transport);
    let policies = Policies::read()?;
    let paths = paths(&policies);
    let names = health_names(&policies);
    let guard = GuardLayer::new(policies, identity.clone(), admission, limits(config));

    let draining = CancellationToken::new();
    let (share, max_age) = (config.tenant_share, config.watch_max_age);
    let streams = |kind, size| Streams::new(kind, size, share, max_age, draining.clone());
    let permits = streams(Kind::Transfer, config.max_transfers);
    let streams = streams(Kind::Watch, config.max_watches);
    let transfers = Transfers {
        permits: permits.clone(),
        open_import: transfers::import,
        open_export: transfers::export,
    };
    let lag = activities::Lag::observed();
    let pace = activities::Pace {
        poll: config.watch_poll_interval,
        checkpoint: config.watch_checkpoint_interval,
    };

    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health::observed(reporter, names);
    let mut routes = Routes::new(health_service.max_decoding_message_size(MAX_ANONYMOUS_MESSAGE));
    let size = config.max_message_bytes;
    macro_rules! add {
        ($server:ident, $service:expr) => {
            routes = routes.add_service($server::new($service).max_decoding_message_size(size));
        };
    }
    let overview = overview::read;
    add!(
        AccountServiceServer,
        accounts::Service { db: db.clone(), dependents: OF_ACCOUNTS, overview, transfers }
    );
    add!(AccountTypeServiceServer, account_types::Service { db: db.clone() });
    add!(CommerceServiceServer, commerce::Service { db: db.clone() });
    add!(ContractServiceServer, contracts::Service { db: db.clone() });
    add!(OrganizationServiceServer, organizations::Service { db: db.clone() });
    add!(MembershipServiceServer, memberships::Service { db: db.clone() });
    add!(PersonServiceServer, people::Service { db: db.clone() });
    add!(PortfolioServiceServer, portfolios::Service { db: db.clone() });
    add!(OpportunityServiceServer, opportunities::Service { db: db.clone() });
    add!(
        ActivityServiceServer,
        activities::Service { db: db.clone(), streams: streams.clone(), pace, lag }
    );
    let min_retention = config.min_activity_retention;
    add!(TenantServiceServer, tenants::Service { db: db.clone(), min_retention });
    if config.reflection {
        routes = with_reflection(routes)?;
    }

    // Set before the first connection is accepted, so that a client that finds the port open also
    // finds the health status.
    health.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    health.report(true).await;

    let service = ServiceBuilder::new()
        .layer(RpcLayer::new(paths))
        .layer(guard.clone())
        .service(routes.prepare());
    let limits = transport::Limits {
        streams: config.max_streams,
        answer: config.answer_timeout,
        transport: config.transport.clone(),
    };
    let server = transport::serve(incoming, service, &limits, draining.clone());
    // This ends whatever peers do. An open health watch or an idle connection keeps `server`
    // running, but not this.
    let ending = async {
        tokio::select! {
            () = stop => {}
            () = health.follow(&db) => {}
        }
        tracing::info!("shutting down");
        let drained = async {
            health.report(false).await;
            sleep(config.shutdown_delay).await;
            draining.cancel();
            guard.idle().await;
            tokio::join!(streams.ended(STREAMS_END), permits.ended(STREAMS_END));
            sleep(LAST_CALLS).await;
            guard.idle().await;
        };
        if timeout(config.shutdown_deadline, drained).await.is_err() {
            tracing::warn!("the shutdown deadline has passed with calls under way");
        }
    };
    let renewing = async {
        match tls {
            Some(tls) => tls.keep_current().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = server => Ok(()),
        () = ending => Ok(()),
        never = renewing => match never {},
        () = identity.keep() => Ok(()), // never completes
    }
}

/// Adds both versions of the reflection service: clients know one or the other.
fn with_reflection(routes: Routes) -> Result<Routes, ServeError> {
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    Ok(routes
        .add_service(v1.max_decoding_message_size(MAX_ANONYMOUS_MESSAGE))
        .add_service(v1alpha.max_decoding_message_size(MAX_ANONYMOUS_MESSAGE)))
}

/// The limits of calls as configured.
const fn limits(config: &Config) -> Limits {
    Limits {
        calls: config.max_calls,
        buffered: config.max_buffered_bytes,
        tenant_share: config.tenant_share,
        default_deadline: config.default_deadline,
        max_deadline: config.max_deadline,
        answer: config.answer_timeout,
        message: config.max_message_bytes,
        uncompressed: config.compress_above,
    }
}

/// Identity as configured, for a service on this address.
pub fn identity(config: &Config, address: SocketAddr) -> Result<Identity, ServeError> {
    identity_on(config, &[address])
}

/// Identity as configured, for a service that will listen on one of these addresses. Fails for
/// development identity on addresses that are not loopback ones.
pub fn identity_on(config: &Config, addresses: &[SocketAddr]) -> Result<Identity, ServeError> {
    let identity = Identity::configured(&config.tokens)?;
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if identity.believes_everybody() => Err(ServeError::NotLoopback(*address)),
        _ => Ok(identity),
    }
}

/// The workloads that may call. Fails for options with which no workload could ever call.
fn admission(config: &Config) -> Result<Admission, ServeError> {
    let config = &config.transport;
    let (mesh, mutual) = (config.mesh_header.is_on(), config.tls_client_ca.is_some());
    if !config.allowed_workloads.is_empty() && !mesh && !mutual {
        return Err(ServeError::NamelessWorkloads(
            "--allowed-workloads",
            "--tls-client-ca or --mesh-header",
        ));
    }
    let proxied = mesh && mutual;
    if !config.mesh_proxies.is_empty() && !proxied {
        return Err(ServeError::NamelessWorkloads(
            "--mesh-proxies",
            "--tls-client-ca and --mesh-header",
        ));
    }
    let (allowed, mesh) = (config.allowed_workloads.clone(), config.mesh_header.clone());
    Ok(Admission { allowed, mesh, proxies: config.mesh_proxies.clone() })
}

fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// All calls that telemetry counts under their names.
fn paths(policies: &Policies) -> Vec<String> {
    let health = ["Check", "Watch"].map(|method| format!("grpc.health.v1.Health/{method}"));
    let reflection = ["v1", "v1alpha"]
        .map(|version| format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    policies.iter().map(|policy| policy.method.to_owned()).chain(health).chain(reflection).collect()
}

/// The health names that depend on the database: every service, the server as a whole (the empty
/// name), and readiness.
fn health_names(policies: &Policies) -> BTreeSet<&'static str> {
    let services = policies.iter().filter_map(|policy| policy.method.split('/').next());
    services.chain(["", READINESS]).collect()
}

/// What the health service says of the service and its database.
struct Health {
    reporter: HealthReporter,
    /// The names that depend on the database.
    names: BTreeSet<&'static str>,
    /// Whether they are SERVING.
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Health whose readiness is exported.
    fn observed(reporter: HealthReporter, names: BTreeSet<&'static str>) -> Self {
        let ready = Arc::<AtomicBool>::default();
        let observed = Arc::clone(&ready);
        READY.observe(move || if observed.load(Ordering::Relaxed) { 1.0 } else { 0.0 });
        Self { reporter, names, ready }
    }

    /// Updates the status, for ever. A single failed probe changes nothing, and a full pool does
    /// not count as a missing database.
    async fn follow(&self, db: &Db) {
        let (mut ready, mut against) = (true, 0);
        let mut ticks = interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answered = db.ping(PROBE).await.is_ok();
            against = if answered == ready { 0 } else { against + 1 };
            if against == PROBES_TO_CHANGE {
                (ready, against) = (answered, 0);
                tracing::warn!(
                    ready,
                    "readiness changed: the database {}",
                    if ready { "answers again" } else { "does not answer" }
                );
                self.report(ready).await;
            }
        }
    }

    async fn report(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in &self.names {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

//! The harness: one service for all tests, tenants and clients.

pub mod calls;
pub mod certs;
pub mod cluster;
pub mod collector;
pub mod commerce;
pub mod contracts;
pub mod dice;
mod errors;
pub mod every_call;
pub mod frames;
pub mod logs;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod sales;
pub mod tap;
pub mod tenancy;
pub mod tokens;
pub mod trail;
pub mod transfers;
pub mod watch;

use std::{
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use self::errors::{
    Refused, assert_same_words, comment, refusal, refused, screaming, violations,
};
use clap::Parser as _;
use customer_accounts::{
    caller::{Caller, Reach, Roles, TenantId},
    config::{Cli, Config},
    db::{Clock, Db, Manager, migrate},
    proto::{
        Account, Contact, CreateAccountRequest, CreateOrganizationRequest, Organization,
        account_service_client::AccountServiceClient,
        account_type_service_client::AccountTypeServiceClient,
        activity_service_client::ActivityServiceClient,
        commerce_service_client::CommerceServiceClient,
        contract_service_client::ContractServiceClient,
        membership_service_client::MembershipServiceClient,
        opportunity_service_client::OpportunityServiceClient,
        organization_service_client::OrganizationServiceClient,
        person_service_client::PersonServiceClient,
        portfolio_service_client::PortfolioServiceClient,
        tenant_service_client::TenantServiceClient,
    },
    server,
};
use tokio::{net::TcpListener, runtime::Handle, time::Instant};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// The real server to test on, if there is one.
pub fn real_server() -> Option<String> {
    std::env::var("TEST_DATABASE_URL").ok().filter(|url| !url.is_empty())
}

/// Says that a test ends early, because the machine lacks something. Panics instead where
/// `REQUIRE_ALL` is set, as `.ci/run` does: nothing may be missing there.
#[track_caller]
pub fn skip(lacks: &str) {
    assert!(std::env::var_os("REQUIRE_ALL").is_none(), "REQUIRE_ALL is set, but {lacks}");
    eprintln!("skipped: {lacks}");
}

/// Whether there is a real server; if not, skips the test, which needs what the embedded server
/// does not have.
pub fn has_real_server(why: &str) -> bool {
    let real = real_server().is_some();
    if !real {
        skip(&format!("TEST_DATABASE_URL is not set: {why}"));
    }
    real
}

/// The URL of a fresh database on the real server. Without that server skips the test.
pub async fn real_database(why: &str) -> Option<String> {
    if !has_real_server(why) {
        return None;
    }
    Some(fresh_database(&real_server()?).await)
}

/// Why a test of races needs a real server.
pub const ALONE: &str = "races need more than one connection";

/// Creates a database and tells its URL.
pub async fn fresh_database(server: &str) -> String {
    created_database(server, "").await
}

/// Copies a database, to which nobody may be connected, and tells the URL of the copy.
pub async fn copied_database(url: &str) -> String {
    let name = url.parse::<tokio_postgres::Config>().unwrap().get_dbname().unwrap().to_owned();
    created_database(&real_server().unwrap(), &format!("TEMPLATE {name} STRATEGY FILE_COPY")).await
}

async fn created_database(server: &str, like: &str) -> String {
    let name = format!("it_{}", unique());
    let sql = sql(server).await;
    sql.batch_execute(&format!("CREATE DATABASE {name} {like}")).await.unwrap();
    let (base, query) = server.split_once('?').unwrap_or((server, ""));
    let (base, _) = base.rsplit_once('/').unwrap();
    if query.is_empty() { format!("{base}/{name}") } else { format!("{base}/{name}?{query}") }
}

/// A plain connection, as the login of the URL.
pub async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Calls `wanted` until it returns something. Fails after the limit.
#[track_caller]
pub fn eventually<T>(
    limit: Duration,
    what: &str,
    mut wanted: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = wanted().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{caller}: not within {limit:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until exactly this number of statements in the connection's database wait for locks.
#[track_caller]
pub fn waiting_for_locks(sql: &tokio_postgres::Client, count: i64) -> impl Future<Output = ()> {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(Duration::from_secs(10), "statements that wait for locks", async move || {
        // Inside a transaction PostgreSQL repeats its first answer otherwise.
        sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        (sql.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == count).then_some(())
    })
}

/// A name that no other test has, in this run or another.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}_{}", uuid::Uuid::now_v7().simple(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// All Rust files below a folder.
pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// Options as the command line would give them.
pub fn config(arguments: &[&str]) -> Config {
    Cli::parse_from(["customer-accounts"].iter().chain(arguments)).config
}

/// The service that all tests share.
pub struct Shared {
    pub address: SocketAddr,
    pub db: Db,
    /// The clock of the tenants of all tests.
    pub clock: Clock,
    /// URL of the database; `None` on the embedded server.
    pub url: Option<String>,
    /// The runtime for work on `db`: a connection made on a test's own runtime would end with that
    /// test, for all tests.
    pub runtime: Handle,
}

impl Shared {
    /// Runs a test's own work on `db` on the service's runtime.
    pub async fn on_its_runtime<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _entered = self.runtime.enter();
            work.as_mut().poll(cx)
        })
        .await
    }
}

pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        // A runtime of its own: those of the tests end with them.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(serve(sender));
        });
        receiver.recv().unwrap()
    })
}

async fn serve(started: std::sync::mpsc::Sender<Shared>) {
    logs::watch();
    tenancy::watch();
    let (login, size, url, _embedded) = if let Some(server) = real_server() {
        let url = fresh_database(&server).await;
        (url.parse().unwrap(), 8, Some(url), None)
    } else {
        // Kept until the process ends: the server runs in it.
        let folder = tempfile::Builder::new().prefix("ca-it").tempdir().unwrap();
        let embedded =
            customer_accounts::db::embedded::Embedded::start(folder.path()).await.unwrap();
        (embedded.config(), 1, None, Some((embedded, folder)))
    };
    migrate::run(&Manager::new(login.clone(), None), migrate::Direction::Up).await.unwrap();
    let limits = ["--max-calls", "4096", "--max-connections-per-peer", "1000"];
    let config = config(&[&limits[..], &["--max-transfers", "1000"]].concat());
    // Many tests share these few connections, so they wait longer than a caller would.
    let wait = Duration::from_secs(20);
    let manager = Manager::new(login, Some(config.database_role.clone()));
    let manager =
        if url.is_some() { manager.allow_privileged_login(true) } else { manager.embedded() };
    let clock = Clock::settable();
    // The embedded server has one connection.
    let lanes = if url.is_some() { 2 } else { 0 };
    let db = Db::new(manager, size, wait, None).with_lanes(lanes, None).with_clock(clock.clone());
    db.verify().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shared = Shared {
        address: listener.local_addr().unwrap(),
        db: db.clone(),
        clock,
        url,
        runtime: Handle::current(),
    };
    started.send(shared).unwrap();
    server::serve(listener, db, &config, pending()).await.unwrap();
}

/// A tenant in a database of its own, a connection to that database, and the service's pool for it.
/// Tests must not use the pool of the shared service: a connection that it makes for a test ends
/// with that test's runtime.
pub async fn apart() -> Option<(Tenant, tokio_postgres::Client, Db)> {
    let url = real_database(ALONE).await?;
    let (tenant, db) = with_pool(&url, 8).await;
    Some((tenant, sql(&url).await, db))
}

/// Migrates a database and serves it with a pool of so many connections.
pub async fn with_pool(url: &str, size: u32) -> (Tenant, Db) {
    with_lanes(url, size, 0, Duration::from_secs(1)).await
}

/// [`with_pool`] with so many connections for hot reads besides.
pub async fn with_lanes(url: &str, size: u32, lanes: usize, wait: Duration) -> (Tenant, Db) {
    let login: tokio_postgres::Config = url.parse().unwrap();
    migrate::run(&Manager::new(login.clone(), None), migrate::Direction::Up).await.unwrap();
    let db = Db::new(Manager::new(login, Some("customer_accounts_app".into())), size, wait, None)
        .with_lanes(lanes, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), db.clone());
    tokio::spawn(async move { server::serve(listener, served, &config(&[]), pending()).await });
    (Tenant::on(connect(address).await), db)
}

pub async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A caller of the development identity: the headers of every request of its clients.
#[derive(Clone)]
pub struct As {
    pub tenant: String,
    pub actor: String,
    pub roles: String,
    pub tenant_wide: bool,
}

impl Interceptor for As {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = [
            ("x-tenant-id", &self.tenant),
            ("x-actor", &self.actor),
            ("x-roles", &self.roles),
            ("x-tenant-wide", &self.tenant_wide.to_string()),
        ];
        for (name, value) in headers {
            request.metadata_mut().insert(name, MetadataValue::try_from(value).unwrap());
        }
        Ok(request)
    }
}

pub type Client = InterceptedService<Channel, As>;

/// A tenant of a test's own, as an administrator sees it.
#[derive(Clone)]
pub struct Tenant {
    pub caller: As,
    pub channel: Channel,
}

impl Tenant {
    /// A new tenant of the shared service.
    pub async fn new() -> Self {
        Self::on(connect(shared().address).await)
    }

    /// A new tenant of another service.
    pub fn on(channel: Channel) -> Self {
        let tenant = format!("t-{}", unique());
        Self {
            caller: As { tenant, actor: "tester".into(), roles: "admin".into(), tenant_wide: true },
            channel,
        }
    }

    /// This tenant, as a caller with these roles.
    pub fn with_roles(&self, roles: &str) -> Self {
        Self {
            caller: As { roles: roles.into(), ..self.caller.clone() },
            channel: self.channel.clone(),
        }
    }

    /// This tenant, as another actor.
    pub fn with_actor(&self, actor: &str) -> Self {
        Self {
            caller: As { actor: actor.into(), ..self.caller.clone() },
            channel: self.channel.clone(),
        }
    }

    /// This tenant, as an actor with these roles whose reach is that of the person with this
    /// subject.
    pub fn reaching(&self, subject: &str, roles: &str) -> Self {
        let caller = As {
            actor: subject.into(),
            roles: roles.into(),
            tenant_wide: false,
            ..self.caller.clone()
        };
        Self { caller, channel: self.channel.clone() }
    }

    pub fn accounts(&self) -> AccountServiceClient<Client> {
        AccountServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn account_types(&self) -> AccountTypeServiceClient<Client> {
        AccountTypeServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn activities(&self) -> ActivityServiceClient<Client> {
        ActivityServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn commerce(&self) -> CommerceServiceClient<Client> {
        CommerceServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn contracts(&self) -> ContractServiceClient<Client> {
        ContractServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn memberships(&self) -> MembershipServiceClient<Client> {
        MembershipServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn organizations(&self) -> OrganizationServiceClient<Client> {
        OrganizationServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn people(&self) -> PersonServiceClient<Client> {
        PersonServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn opportunities(&self) -> OpportunityServiceClient<Client> {
        OpportunityServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn portfolios(&self) -> PortfolioServiceClient<Client> {
        PortfolioServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn tenants(&self) -> TenantServiceClient<Client> {
        TenantServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// The caller as the service's own code has it, for reads behind the API:
    /// `shared().on_its_runtime(shared().db.read(&tenant.caller(), …))`.
    pub fn caller(&self) -> Caller {
        Caller {
            tenant: TenantId::parse(&self.caller.tenant).unwrap(),
            actor: self.caller.actor.as_str().into(),
            roles: Roles::ADMIN,
            reach: Reach::Tenant,
            module: "customer_accounts",
            method: "test",
            workload: None,
            deadline: Instant::now() + Duration::from_secs(30),
            expires: None,
        }
    }

    /// Creates an organization under this id, which is also its name.
    pub async fn organization(&self, id: &str, parent_id: &str) -> Organization {
        let organization = Organization {
            organization_id: id.into(),
            display_name: id.into(),
            parent_id: parent_id.into(),
            ..Default::default()
        };
        let request =
            CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        self.organizations()
            .create_organization(request)
            .await
            .unwrap()
            .into_inner()
            .organization
            .unwrap()
    }

    /// Creates an account as it is given.
    pub async fn account(&self, account: Account) -> Account {
        self.try_account(account).await.unwrap()
    }

    /// Creates an account as it is given, or returns the error.
    pub async fn try_account(&self, account: Account) -> Result<Account, Status> {
        let request = CreateAccountRequest { account: Some(account), ..Default::default() };
        self.accounts()
            .create_account(request)
            .await
            .map(|response| response.into_inner().account.unwrap())
    }
}

/// The least that an account needs.
pub fn account(id: &str, organization_id: &str) -> Account {
    Account {
        account_id: id.into(),
        display_name: format!("Account {id}"),
        organization_id: organization_id.into(),
        primary_contact: anybody(),
        ..Default::default()
    }
}

/// A primary contact given inline, of an account that must have one.
#[expect(clippy::unnecessary_wraps, reason = "as the field of the message has it")]
pub fn anybody() -> Option<Contact> {
    Some(Contact { email: "qq@qq.example".into(), ..Default::default() })
}

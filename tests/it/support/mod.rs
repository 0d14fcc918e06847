//! The harness: one service for all tests, tenants, clients, and what tests assert about errors.

pub mod calls;
pub mod certs;
pub mod cluster;
pub mod dice;
pub mod frames;
pub mod logs;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod tap;
pub mod tokens;

use std::{
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use customer_accounts::{
    caller::{Caller, Reach, Roles, TenantId},
    config::{Cli, Config},
    db::{Db, Manager, migrate},
    proto::{
        Account, Contact, CreateAccountRequest, CreateOrganizationRequest, Organization, POOL,
        account_service_client::AccountServiceClient,
        account_type_service_client::AccountTypeServiceClient,
        activity_service_client::ActivityServiceClient,
        membership_service_client::MembershipServiceClient,
        organization_service_client::OrganizationServiceClient,
        person_service_client::PersonServiceClient, tenant_service_client::TenantServiceClient,
    },
    server,
};
use prost_reflect::FileDescriptor;
use tokio::{net::TcpListener, runtime::Handle, time::Instant};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorDetails, StatusExt as _};

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

/// Creates a database and tells its URL.
pub async fn fresh_database(server: &str) -> String {
    let name = format!("it_{}", unique());
    let sql = sql(server).await;
    sql.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
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

/// Asks again and again until `wanted` finds something, at most so long.
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

/// Waits until so many statements of the connection's database wait for locks.
#[track_caller]
pub fn waiting_for_locks(sql: &tokio_postgres::Client, count: i64) -> impl Future<Output = ()> {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(Duration::from_secs(10), "statements that wait for locks", async move || {
        // Inside a transaction PostgreSQL goes on showing what it showed first.
        sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        (sql.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == count).then_some(())
    })
}

/// A name that no other test has, also in another run.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}_{}", uuid::Uuid::now_v7().simple(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Options as the command line would give them.
pub fn config(arguments: &[&str]) -> Config {
    Cli::parse_from(["customer-accounts"].iter().chain(arguments)).config
}

/// The service that all tests share.
pub struct Shared {
    pub address: SocketAddr,
    pub db: Db,
    /// URL of the database; `None` on the embedded server.
    pub url: Option<String>,
    /// Where work on `db` belongs: a connection made on a test's own runtime would end with that
    /// test, for all.
    pub runtime: Handle,
}

impl Shared {
    /// Does on the service's runtime what a test does with `db` itself.
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
    let config = config(&["--max-calls", "4096", "--max-connections-per-peer", "1000"]);
    // Many tests share the one connection of the embedded server, so its users wait longer than a
    // caller would.
    let wait = if url.is_some() { config.pool_wait } else { Duration::from_secs(20) };
    let manager = Manager::new(login, Some(config.database_role.clone()));
    let manager =
        if url.is_some() { manager.allow_privileged_login(true) } else { manager.embedded() };
    let db = Db::new(manager, size, wait, None);
    db.verify().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shared = Shared {
        address: listener.local_addr().unwrap(),
        db: db.clone(),
        url,
        runtime: Handle::current(),
    };
    started.send(shared).unwrap();
    server::serve(listener, db, &config, pending()).await.unwrap();
}

pub async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A caller of the development identity: what every request of its clients says about itself.
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

/// A tenant of its own for each test, seen by an administrator unless told else.
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

    /// The same tenant, seen by a caller with these roles.
    pub fn with_roles(&self, roles: &str) -> Self {
        Self {
            caller: As { roles: roles.into(), ..self.caller.clone() },
            channel: self.channel.clone(),
        }
    }

    /// The same tenant, seen by another actor.
    pub fn with_actor(&self, actor: &str) -> Self {
        Self {
            caller: As { actor: actor.into(), ..self.caller.clone() },
            channel: self.channel.clone(),
        }
    }

    /// The same tenant, seen by an actor with these roles whose reach is that of the person with
    /// this subject.
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

    pub fn memberships(&self) -> MembershipServiceClient<Client> {
        MembershipServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn organizations(&self) -> OrganizationServiceClient<Client> {
        OrganizationServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn people(&self) -> PersonServiceClient<Client> {
        PersonServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    pub fn tenants(&self) -> TenantServiceClient<Client> {
        TenantServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// The caller as the service's own code sees it, to look behind the API:
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

    /// The same, when it may be refused.
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

/// An answer that is an error, or the error itself.
pub trait Refused {
    fn status(&self) -> &Status;
}

impl Refused for Status {
    fn status(&self) -> &Status {
        self
    }
}

impl<T: std::fmt::Debug> Refused for Result<T, Status> {
    #[track_caller]
    fn status(&self) -> &Status {
        self.as_ref().expect_err("an error")
    }
}

impl<R: Refused> Refused for &R {
    #[track_caller]
    fn status(&self) -> &Status {
        (*self).status()
    }
}

/// The reason of an error. Fails unless the error has the code that the contract gives the reason.
#[track_caller]
pub fn refusal(answer: impl Refused) -> String {
    let (status, details) = refused(answer);
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    let reasons = POOL.get_enum_by_name("accounts.v1.ErrorReason").unwrap();
    let value = reasons.get_value_by_name(&format!("ERROR_REASON_{}", info.reason));
    let value = value.unwrap_or_else(|| panic!("{} is no ErrorReason: {status:?}", info.reason));
    let comment = comment(&reasons.parent_file(), value.path());
    let (code, _) = comment.split_once(". ").expect("a code, and what to do");
    assert_eq!(screaming(status.code()), code, "{status:?}");
    info.reason.clone()
}

/// The comment of what a path in a file of the contract leads to, on one line.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let mut locations = info.expect("the descriptor set has the comments").location.iter();
    let location = locations.find(|location| location.path == path);
    let comment = location.map_or("", |location| location.leading_comments());
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name of a code as gRPC has it: `INVALID_ARGUMENT`.
pub fn screaming(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
    }
    name
}

/// The error and its details.
#[track_caller]
pub fn refused(answer: impl Refused) -> (Status, ErrorDetails) {
    let status = answer.status().clone();
    let details = status.get_error_details();
    (status, details)
}

/// The fields and rules that a request breaks.
#[track_caller]
pub fn violations(answer: impl Refused) -> Vec<(String, String)> {
    let (status, details) = refused(answer);
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = details.bad_request().expect("field violations").field_violations.clone();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

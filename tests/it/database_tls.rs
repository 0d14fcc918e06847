//! TLS to PostgreSQL: real servers with certificates of the test's own, and what is between.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_accounts::{
    db::{ConnectError, Manager, TlsFault, login},
    proto::{GetAccountRequest, ListAccountsRequest},
};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tonic::{Code, Request};

use crate::support::{
    Tenant, account,
    certs::{Authority, Days, LONG, Mounted, Pair, Trust},
    cluster::Cluster,
    eventually,
    process::{Service, run},
    sql, waiting_for_locks,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// The logins of a server, all of which need TLS.
const LOGINS: &str = "\
    hostssl all service   127.0.0.1/32 scram-sha-256\n\
    hostssl all trusted   127.0.0.1/32 trust\n\
    hostssl all plain     127.0.0.1/32 password\n\
    hostssl all certified 127.0.0.1/32 cert\n\
    hostssl all showing   127.0.0.1/32 trust clientcert=verify-ca\n";
/// PostgreSQL's request for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A server whose certificate is for `db.test` and 127.0.0.1, and the files of its clients.
struct Scene {
    cluster: Cluster,
    authority: Authority,
    /// The authority of clients' certificates.
    clients: Authority,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Option<Self> {
        Self::signed_by(Authority::new()).await
    }

    async fn signed_by(authority: Authority) -> Option<Self> {
        let clients = Authority::new();
        let cluster = Cluster::encrypted(&server(&authority, LONG), &clients.pem, LOGINS)?;
        let superuser = sql(&cluster.url()).await;
        let roles = "CREATE ROLE service LOGIN SUPERUSER PASSWORD 'hunter2';
            CREATE ROLE plain LOGIN PASSWORD 'hunter2';
            CREATE ROLE trusted LOGIN; CREATE ROLE certified LOGIN;
            CREATE ROLE showing LOGIN SUPERUSER";
        superuser.batch_execute(roles).await.unwrap();
        let scene = Self { cluster, authority, clients, folder: tempfile::tempdir().unwrap() };
        scene.file("ca.pem", &scene.authority.pem);
        scene.file("other.pem", &Authority::new().pem);
        Some(scene)
    }

    /// Writes a file that only its owner can read, and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The parameters for a certificate and its key.
    fn showing(&self, pair: &Pair) -> String {
        let (cert, key) = (self.file("c.pem", &pair.cert), self.file("k.pem", &pair.key));
        format!("&sslcert={cert}&sslkey={key}")
    }

    /// The URL of a login on the host `db.test`; in the parameters, `@` is the folder of the files.
    fn url(&self, login: &str, parameters: &str) -> String {
        self.url_on("db.test", self.cluster.port(), login, parameters)
    }

    fn url_on(&self, host: &str, port: u16, login: &str, parameters: &str) -> String {
        let parameters = parameters.replace('@', self.folder.path().to_str().unwrap());
        format!("postgres://{login}@{host}:{port}/postgres?hostaddr=127.0.0.1&{parameters}")
    }
}

/// A server's certificate for `db.test` and 127.0.0.1.
fn server(authority: &Authority, days: Days) -> Pair {
    authority.sign(&["db.test"], days, "db.test", &[ServerAuth])
}

/// A client's certificate for this login.
fn client(authority: &Authority, login: &str, days: Days) -> Pair {
    authority.sign(&[], days, login, &[ClientAuth])
}

/// Logs in as the service does. Returns the kind of error, and its text.
async fn log_in(url: &str) -> Result<(), (&'static str, String)> {
    let login = login(url).map_err(|error| ("url", error.to_string()))?;
    let opened = Manager::new(login, None).login().await;
    opened.map(|_| ()).map_err(|error| {
        let kind = match &error {
            ConnectError::Tls { fault, .. } => match &**fault {
                TlsFault::File(_) | TlsFault::System(_) => "file",
                TlsFault::NotOffered => "not offered",
                TlsFault::Untrusted(_) => "untrusted",
                TlsFault::OtherHost(_) => "other host",
                TlsFault::ClientCertificate(_) => "client certificate",
                TlsFault::NoClientCertificate => "no client certificate",
                TlsFault::Handshake(_) => "handshake",
            },
            _ => "refused",
        };
        (kind, error.to_string())
    })
}

#[track_caller]
fn assert_outcome(case: &str, outcome: Result<(), (&'static str, String)>, wanted: (&str, &str)) {
    let (kind, text) = outcome.err().unwrap_or(("", String::new()));
    assert_eq!(kind, wanted.0, "{case}: {text}");
    assert!(text.contains(wanted.1), "{case}: {:?} is not in {text:?}", wanted.1);
    assert!(!text.contains("hunter2") && !text.contains("PRIVATE"), "{case}: {text}");
}

/// Passes everything on to the server. Tells the number of connections so far, or panics if one of
/// them did not ask for TLS first.
async fn watched(port: u16) -> (u16, impl Fn() -> usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let firsts = Arc::<Mutex<Vec<[u8; 8]>>>::default();
    let seen = Arc::clone(&firsts);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let firsts = Arc::clone(&firsts);
            tokio::spawn(async move {
                let mut first = [0; 8];
                client.read_exact(&mut first).await.unwrap();
                firsts.lock().unwrap().push(first);
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                server.write_all(&first).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let count = move || {
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|first| *first == SSL_REQUEST), "{seen:?}");
        seen.len()
    };
    (own_port, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_works_over_verified_connections() {
    let Some(scene) = Scene::new().await else { return };
    let verified = "sslmode=verify-full&sslrootcert=@/ca.pem&channel_binding=require";
    let (port, connections_so_far) = watched(scene.cluster.port()).await;
    let url = scene.url_on("db.test", port, "service:hunter2", verified);
    for command in ["migrate", "check", "prune"] {
        let done = run(&[command], &[("DATABASE_URL", &url)]).await;
        assert_eq!(done.code, Some(0), "{command}: {done:?}");
    }
    let service = Service::on(&url, &["--pool-size", "1", "--read-lanes", "1"]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;

    // One connection of the pool, and one for hot reads.
    let server = sql(&scene.cluster.url()).await;
    let connections = "SELECT count(*), bool_and(ssl), min(version) FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE usename = 'service'";
    eventually(PATIENCE, "both connections, encrypted", async || {
        let get = GetAccountRequest { account_id: "a".into() };
        tenant.accounts().get_account(get).await.unwrap();
        let row = server.query_one(connections, &[]).await.unwrap();
        if row.get::<_, i64>(0) > 0 {
            assert_eq!((row.get(1), row.get(2)), (true, "TLSv1.3"));
        }
        (row.get::<_, i64>(0) == 2).then_some(())
    })
    .await;

    // The statement of a call that is given up is cancelled long before its time is over.
    let holder = sql(&scene.cluster.url()).await;
    holder.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let before = connections_so_far();
    let mut accounts = tenant.accounts();
    let mut list = Request::new(ListAccountsRequest::default());
    list.set_timeout(Duration::from_mins(1));
    tokio::select! {
        listed = accounts.list_accounts(list) => panic!("{listed:?}"),
        () = waiting_for_locks(&server, 1) => {}
    }
    waiting_for_locks(&server, 0).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let listed = tenant.accounts().list_accounts(ListAccountsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().accounts.len(), 1);
    assert!(!service.log().text().contains("cannot cancel"), "{}", service.log().text());
    assert!(connections_so_far() > before, "the cancel request is a connection of its own");
}

#[tokio::test]
async fn a_server_must_be_the_one_that_is_meant() {
    let Some(scene) = Scene::new().await else { return };
    let bundle = fs::read_to_string(scene.folder.path().join("other.pem")).unwrap();
    scene.file("both.pem", &(bundle + &scene.authority.pem));
    scene.file("text.pem", "no certificate");
    let accepted = ("", "");
    for (host, parameters, wanted) in [
        // Without sslmode a host of another name than localhost gets TLS, wherever it is.
        ("db.test", "", accepted),
        ("db.test", "sslmode=require", accepted),
        ("db.test", "sslmode=verify-full&sslrootcert=@/ca.pem", accepted),
        ("db.test", "sslmode=verify-full&sslrootcert=@/both.pem", accepted),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=@/ca.pem", accepted),
        ("other.test", "sslmode=verify-ca&sslrootcert=@/ca.pem", accepted),
        ("other.test", "sslmode=require&sslrootcert=@/ca.pem", accepted),
        ("no..name", "sslmode=verify-ca&sslrootcert=@/ca.pem", accepted),
        (
            "other.test",
            "sslmode=verify-full&sslrootcert=@/ca.pem",
            ("other host", "not valid for name \"other.test\"; certificate is only valid for"),
        ),
        ("no..name", "sslmode=verify-full&sslrootcert=@/ca.pem", ("other host", "\"no..name\"")),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=@/ca.pem",
            ("other host", "Use a name of the certificate"),
        ),
        (
            "db.test",
            "sslmode=verify-full&sslrootcert=@/other.pem",
            ("untrusted", "none of the authorities of sslrootcert has signed it"),
        ),
        ("db.test", "sslmode=verify-ca&sslrootcert=@/other.pem", ("untrusted", "")),
        ("db.test", "sslmode=require&sslrootcert=@/other.pem", ("untrusted", "")),
        ("db.test", "sslrootcert=@/other.pem", ("untrusted", "")),
        ("db.test", "sslrootcert=@/none.pem", ("file", "none.pem: cannot be read: No such file")),
        ("db.test", "sslrootcert=@/text.pem", ("file", "sslrootcert")),
        ("db.test", "sslrootcert=@/text.pem", ("file", "text.pem: is not PEM")),
        // The logins of this server need TLS.
        ("db.test", "sslmode=disable", ("refused", "if the server requires that, set sslmode")),
        ("localhost", "", ("refused", "if the server requires that, set sslmode")),
    ] {
        let url = scene.url_on(host, scene.cluster.port(), "trusted", parameters);
        let case = format!("{host} {parameters}");
        assert_outcome(&case, log_in(&url).await, wanted);
    }
    // The authorities of the operating system, which this variable replaces.
    for (file, trusted) in [("ca.pem", true), ("other.pem", false)] {
        let file = scene.folder.path().join(file);
        let (url, file) = (scene.url("trusted", "sslrootcert=system"), file.to_str().unwrap());
        let checked = run(&["check"], &[("DATABASE_URL", &url), ("SSL_CERT_FILE", file)]).await;
        assert_eq!(!checked.stderr.contains("certificate is not trusted"), trusted, "{checked:?}");
        assert_eq!(!checked.stderr.contains("cannot connect"), trusted, "{checked:?}");
    }
    // The service does not start, and says why.
    let url = scene.url("trusted", "sslmode=verify-ca&sslrootcert=@/none.pem");
    let refused = run(&["serve", "--listen", "127.0.0.1:0"], &[("DATABASE_URL", &url)]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("none.pem: cannot be read"), "{refused:?}");
}

#[tokio::test]
async fn a_certificate_is_valid_for_a_time() {
    let Some(scene) = Scene::new().await else { return };
    let expired = server(&scene.authority, Days(-1));
    scene.cluster.certify(&expired, &scene.clients.pem);
    scene.cluster.restart();
    scene.file("itself.pem", &expired.cert);
    for file in ["ca.pem", "itself.pem"] {
        let url = scene.url("trusted", &format!("sslmode=verify-ca&sslrootcert=@/{file}"));
        assert_outcome(file, log_in(&url).await, ("untrusted", "has expired"));
    }
    assert_outcome("require", log_in(&scene.url("trusted", "sslmode=require")).await, ("", ""));

    // A certificate that signs itself, as PostgreSQL's manual makes one: trusted as it is.
    scene.cluster.certify(&scene.authority.itself(), &scene.clients.pem);
    scene.cluster.restart();
    for (parameters, wanted) in [
        ("sslmode=verify-ca&sslrootcert=@/ca.pem", ("", "")),
        ("sslmode=verify-full&sslrootcert=@/ca.pem", ("other host", "not valid for any names")),
        ("sslmode=verify-ca&sslrootcert=@/other.pem", ("untrusted", "")),
    ] {
        assert_outcome(parameters, log_in(&scene.url("trusted", parameters)).await, wanted);
    }

    // A certificate that is trusted as it is vouches for no other.
    let other = Authority::without_permission();
    scene.file("other-server.pem", &other.pem);
    scene.cluster.certify(&server(&other, LONG), &scene.clients.pem);
    scene.cluster.restart();
    for mode in ["verify-ca", "verify-full"] {
        let url = scene.url("trusted", &format!("sslmode={mode}&sslrootcert=@/other-server.pem"));
        assert_outcome(mode, log_in(&url).await, ("untrusted", "none of the authorities"));
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_unless_the_url_says_so() {
    let Some(cluster) = Cluster::start() else { return };
    let url = |rest: &str| format!("postgres://postgres@{rest}");
    let (port, not_offered) = (cluster.port(), ("not offered", "sslmode=disable"));
    for (rest, wanted) in [
        (format!("db.test:{port}/postgres?hostaddr=127.0.0.1"), not_offered),
        (format!("db.test:{port}/postgres?hostaddr=127.0.0.1&sslmode=require"), not_offered),
        (format!("127.0.0.1:{port}/postgres?sslmode=require"), not_offered),
        (format!("127.0.0.1:{port}/postgres"), ("", "")),
        (format!("localhost:{port}/postgres?hostaddr=127.0.0.1"), ("", "")),
        (format!("db.test:{port}/postgres?hostaddr=127.0.0.1&sslmode=disable"), ("", "")),
    ] {
        assert_outcome(&rest, log_in(&url(&rest)).await, wanted);
    }
}

#[tokio::test]
async fn a_server_can_ask_for_a_client_certificate() {
    let Some(scene) = Scene::new().await else { return };
    let verified = "sslmode=verify-full&sslrootcert=@/ca.pem";
    let own = client(&scene.clients, "certified", LONG);
    let another = client(&scene.clients, "somebody", LONG);
    let expired = client(&scene.clients, "certified", Days(-1));
    let foreign = client(&Authority::new(), "certified", LONG);
    let asked = ("refused", "If the server requires a client certificate, set sslcert");
    let not_accepted = ("client certificate", "does not accept the client certificate");
    for newest in ["TLSv1.3", "TLSv1.2"] {
        let superuser = sql(&scene.cluster.url()).await;
        let most = format!("ALTER SYSTEM SET ssl_max_protocol_version = '{newest}'");
        superuser.batch_execute(&most).await.unwrap();
        scene.cluster.restart();
        for (login, pair, wanted) in [
            ("certified", Some(&own), ("", "")),
            ("certified", None, asked),
            ("certified", Some(&another), ("refused", "28000")),
            ("certified", Some(&expired), not_accepted),
            ("certified", Some(&foreign), not_accepted),
            ("showing", Some(&another), ("", "")),
            ("showing", None, asked),
            ("showing", Some(&foreign), not_accepted),
        ] {
            let shown = pair.map(|pair| scene.showing(pair)).unwrap_or_default();
            let outcome = log_in(&scene.url(login, &format!("{verified}{shown}"))).await;
            assert_outcome(&format!("{newest}, {login}"), outcome, wanted);
        }
    }
}

#[tokio::test]
async fn the_files_of_the_client_must_be_right() {
    let Some(scene) = Scene::new().await else { return };
    let own = client(&scene.clients, "certified", LONG);
    let shown = scene.showing(&own);
    let url = scene.url("certified", &format!("sslmode=require{shown}"));
    let key = scene.folder.path().join("k.pem");
    for (mode, wanted) in [
        (0o600, ("", "")),
        (0o400, ("", "")),
        (0o644, ("file", "k.pem: others can read or change it (mode 0644): set mode 0600")),
        (0o602, ("file", "sslkey ")),
    ] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert_outcome(&format!("{mode:o}"), log_in(&url).await, wanted);
    }
    let other = client(&scene.clients, "certified", LONG);
    let half = &own.key[..own.key.len() / 2];
    for (file, text, says) in [
        ("k.pem", &*other.key, "is not the key of the first certificate in sslcert"),
        ("k.pem", half, "k.pem: is not PEM: a BEGIN has no END"),
        ("k.pem", "", "k.pem: is not PEM: it has no private key"),
        ("c.pem", &own.key, "c.pem: has no certificate"),
    ] {
        let shown = scene.showing(&own);
        scene.file(file, text);
        let outcome = log_in(&scene.url("certified", &format!("sslmode=require{shown}"))).await;
        let secret = own.key.lines().nth(1).unwrap();
        assert!(!format!("{outcome:?}").contains(secret), "{outcome:?}");
        assert_outcome(says, outcome, ("file", says));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_both_sides_are_replaced_while_the_service_runs() {
    let Some(scene) = Scene::new().await else { return };
    let mounted =
        Mounted::new(&client(&scene.clients, "showing", LONG), Some(&scene.authority.pem));
    let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|file| mounted.path(file));
    let files = format!("sslmode=verify-full&sslrootcert={ca}&sslcert={cert}&sslkey={key}");
    let service = Service::on(&scene.url("showing", &files), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let get = async || {
        let get = GetAccountRequest { account_id: "a".into() };
        tenant.accounts().get_account(get).await.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(get().await, Ok(()));
    let (authority, clients) = (Authority::new(), Authority::new());
    scene.cluster.certify(&server(&authority, LONG), &clients.pem);
    scene.cluster.restart();
    eventually(PATIENCE, "an error, because the files are old", async || {
        (service.log().text().contains("certificate is not trusted")
            && get().await == Err(Code::Unavailable))
        .then_some(())
    })
    .await;
    mounted.swap(&client(&clients, "showing", LONG), Some(&authority.pem));
    eventually(PATIENCE, "an answer by the new files", async || get().await.ok()).await;
}

/// Starts a proxy that ends TLS with a certificate of its own and passes everything on to the
/// server over another TLS connection. Returns its port.
async fn between(pair: &Pair, authority: &Authority, port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let (acceptor, connector) = (pair.acceptor(), Trust::of(authority).connector(b"postgresql"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = [0; 8];
            client.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, SSL_REQUEST);
            client.write_all(b"S").await.unwrap();
            let Ok(mut client) = acceptor.accept(client).await else { continue };
            let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let mut server = TcpStream::connect(SocketAddr::new(localhost, port)).await.unwrap();
            server.write_all(&SSL_REQUEST).await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'S');
            let mut server = connector.connect(ServerName::from(localhost), server).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    });
    own_port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_bound_to_the_certificate_of_its_server() {
    let Some(scene) = Scene::new().await else { return };
    let verified = "sslmode=verify-full&sslrootcert=@/ca.pem&channel_binding=";
    // Its certificate is as good as the server's: signed by the trusted authority, for the host.
    let pair = server(&scene.authority, LONG);
    let port = between(&pair, &scene.authority, scene.cluster.port()).await;
    for (port, binding, wanted) in [
        (scene.cluster.port(), "require", ("", "")),
        (scene.cluster.port(), "prefer", ("", "")),
        (scene.cluster.port(), "disable", ("", "")),
        (port, "disable", ("", "")),
        (port, "prefer", ("refused", "channel binding")),
        (port, "require", ("refused", "channel binding")),
    ] {
        let parameters = format!("{verified}{binding}");
        let url = scene.url_on("db.test", port, "service:hunter2", &parameters);
        let through = if port == scene.cluster.port() { "direct" } else { "through another" };
        assert_outcome(&format!("{binding}, {through}"), log_in(&url).await, wanted);
    }
    // Ways to log in that cannot be bound.
    let not_bound = ("refused", "server did not use channel binding");
    for (login, wanted) in [("trusted", not_bound), ("plain:hunter2", not_bound)] {
        let url = scene.url(login, &format!("{verified}require"));
        assert_outcome(login, log_in(&url).await, wanted);
        let url = scene.url(login, &format!("{verified}prefer"));
        assert_outcome(login, log_in(&url).await, ("", ""));
    }
}

#[tokio::test]
async fn the_hash_of_a_certificate_is_that_of_its_signature() {
    // PostgreSQL cannot bind to the last kind, so the login is not bound.
    let not_bound = ("refused", "server did not use channel binding");
    for (algorithm, wanted) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, ("", "")),
        (&rcgen::PKCS_ECDSA_P521_SHA512, ("", "")),
        (&rcgen::PKCS_ED25519, not_bound),
    ] {
        let Some(scene) = Scene::signed_by(Authority::signing_by(algorithm)).await else { return };
        let verified = "sslmode=verify-full&sslrootcert=@/ca.pem&channel_binding=";
        for (binding, wanted) in [("require", wanted), ("prefer", ("", ""))] {
            let url = scene.url("service:hunter2", &format!("{verified}{binding}"));
            assert_outcome(&format!("{algorithm:?}"), log_in(&url).await, wanted);
        }
    }
}

#[tokio::test]
async fn tls_without_a_request_needs_a_server_that_knows_it() {
    let Some(scene) = Scene::new().await else { return };
    let superuser = sql(&scene.cluster.url()).await;
    let version = "SELECT current_setting('server_version_num')::int >= 170000";
    let knows: bool = superuser.query_one(version, &[]).await.unwrap().get(0);
    let url = scene.url("trusted", "sslrootcert=@/ca.pem&sslnegotiation=direct");
    let wanted = if knows { ("", "") } else { ("handshake", "the TLS handshake failed") };
    assert_outcome("direct", log_in(&url).await, wanted);
}

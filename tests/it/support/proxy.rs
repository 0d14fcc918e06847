//! A proxy between a service and its database that fails at a chosen moment: when a COMMIT passes.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_postgres::{Config, config::Host};
use tokio_util::sync::CancellationToken;

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not reach the server: the connection is closed before.
    BeforeCommit,
    /// The server commits, and the connection is closed before the answer.
    AfterCommit,
    /// It does not reach the server, and the connection stays open and silent, as when a machine
    /// vanishes.
    Silence,
}

pub struct Proxy {
    /// URL of the database through the proxy.
    pub url: String,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    fault: Mutex<Option<Fault>>,
    /// Whether the fault ends all connections and lets no more be made.
    for_good: AtomicBool,
    gone: CancellationToken,
}

impl Proxy {
    pub async fn to(url: &str) -> Self {
        let config = url.parse::<Config>().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let through = format!(
            "postgres://{}@127.0.0.1:{port}/{}",
            config.get_user().unwrap(),
            config.get_dbname().unwrap()
        );
        let proxy = Self { url: through, plan: Arc::default() };
        let plan = Arc::clone(&proxy.plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(plan.gone.clone().run_until_cancelled_owned(forward(
                    client,
                    config.clone(),
                    Arc::clone(&plan),
                )));
            }
        });
        proxy
    }

    /// Makes the next COMMIT fail in this way.
    pub fn fail(&self, fault: Fault) {
        *self.plan.fault.lock().unwrap() = Some(fault);
    }

    /// Makes the next COMMIT fail in this way, closes all other connections then, and refuses new
    /// ones.
    pub fn fail_for_good(&self, fault: Fault) {
        self.plan.for_good.store(true, Ordering::Relaxed);
        self.fail(fault);
    }

    /// Whether the fault has happened.
    pub fn has_failed(&self) -> bool {
        self.plan.fault.lock().unwrap().is_none()
    }
}

async fn forward(client: TcpStream, config: Config, plan: Arc<Plan>) {
    client.set_nodelay(true).unwrap();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match &config.get_hosts()[0] {
        Host::Tcp(host) => {
            let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
            server.set_nodelay(true).unwrap();
            relay(client, server, &plan).await;
        }
        Host::Unix(folder) => {
            let server =
                UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await.unwrap();
            relay(client, server, &plan).await;
        }
    }
}

async fn relay(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    plan: &Plan,
) {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            sent = client.read(&mut up) => {
                let Ok(length @ 1..) = sent else { return };
                let commits = has_commit(&up[..length]);
                let fault = if commits { plan.fault.lock().unwrap().take() } else { None };
                match fault {
                    Some(Fault::BeforeCommit) => return,
                    Some(Fault::Silence) => std::future::pending::<()>().await,
                    _ => {}
                }
                if server.write_all(&up[..length]).await.is_err() {
                    return;
                }
                if fault == Some(Fault::AfterCommit) {
                    let mut answer = Vec::new();
                    while !has_commit(&answer) {
                        let length = server.read(&mut down).await.unwrap();
                        answer.extend_from_slice(&down[..length]);
                    }
                    if plan.for_good.load(Ordering::Relaxed) {
                        plan.gone.cancel();
                    }
                    return;
                }
            }
            answered = server.read(&mut down) => {
                let Ok(length @ 1..) = answered else { return };
                if client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The query of the client, and the tag of the server's answer.
fn has_commit(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|word| word == b"COMMIT\0")
}

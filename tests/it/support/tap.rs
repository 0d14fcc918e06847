//! A proxy between a service and its database, which collects the plans of the queries that the
//! service really sends.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    time::{Instant, sleep_until},
};
use tokio_postgres::{Config, config::Host};

/// The delay of each answer while round trips are counted. It is so long that the service meanwhile
/// sends everything that needs no answer.
const DISTANCE: Duration = Duration::from_millis(100);

/// A proxy that keeps the plans which `auto_explain` sends as notices, and counts round trips.
pub struct Tap {
    address: SocketAddr,
    plans: Arc<Mutex<Vec<Value>>>,
    flights: Arc<Mutex<Flights>>,
}

/// The round trips to the database.
#[derive(Default)]
struct Flights {
    /// Whether round trips are counted, which delays every answer.
    counts: bool,
    count: usize,
    /// When the last round trip began, and whether an answer has come since.
    began: Option<Instant>,
    answered: bool,
}

impl Tap {
    /// The number of round trips to the database before a call is answered. The end of a
    /// transaction that the call does not wait for does not count.
    pub async fn flights(&self, call: impl Future<Output = ()>) -> usize {
        *self.flights.lock().unwrap() =
            Flights { counts: true, answered: true, ..Flights::default() };
        call.await;
        std::mem::take(&mut *self.flights.lock().unwrap()).count
    }

    /// Starts a proxy to a database, and makes all its later sessions explain what they execute.
    /// Needs a superuser.
    pub async fn on(url: &str) -> Self {
        let sql = super::sql(url).await;
        let database = sql
            .query_one("SELECT quote_ident(current_database())", &[])
            .await
            .unwrap()
            .get::<_, String>(0);
        for (name, value) in [
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_level", "notice"),
            ("auto_explain.log_format", "json"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_timing", "off"),
            ("auto_explain.log_buffers", "on"),
        ] {
            // The library is loaded first, because its settings do not exist before.
            sql.batch_execute(&format!(
                "LOAD 'auto_explain'; ALTER DATABASE {database} SET {name} = '{value}'"
            ))
            .await
            .unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = Self {
            address: listener.local_addr().unwrap(),
            plans: Arc::default(),
            flights: Arc::default(),
        };
        let (config, plans, flights) =
            (url.parse::<Config>().unwrap(), Arc::clone(&tap.plans), Arc::clone(&tap.flights));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // As a driver does: otherwise every flight waits for the acknowledgement of the one
                // before.
                client.set_nodelay(true).unwrap();
                tokio::spawn(forward(
                    client,
                    config.clone(),
                    Arc::clone(&plans),
                    Arc::clone(&flights),
                ));
            }
        });
        tap
    }

    /// The login of the tapped database, through the tap.
    pub fn login(&self, url: &str) -> Config {
        let direct = url.parse::<Config>().unwrap();
        let mut config = Config::new();
        config.host(self.address.ip().to_string()).port(self.address.port());
        config.user(direct.get_user().unwrap()).dbname(direct.get_dbname().unwrap());
        if let Some(password) = direct.get_password() {
            config.password(password);
        }
        config
    }

    /// The plans seen since the last time, each with its `Query Text`.
    pub fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.plans.lock().unwrap())
    }
}

async fn forward(
    client: TcpStream,
    config: Config,
    plans: Arc<Mutex<Vec<Value>>>,
    flights: Arc<Mutex<Flights>>,
) {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match &config.get_hosts()[0] {
        Host::Tcp(host) => {
            let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
            server.set_nodelay(true).unwrap();
            relay(client, server, plans, flights).await;
        }
        Host::Unix(folder) => {
            let socket = folder.join(format!(".s.PGSQL.{port}"));
            relay(client, UnixStream::connect(socket).await.unwrap(), plans, flights).await;
        }
    }
}

async fn relay(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite + Send + 'static,
    plans: Arc<Mutex<Vec<Value>>>,
    flights: Arc<Mutex<Flights>>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            flights.lock().unwrap().sent(&bytes[..length]);
            if to_server.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let down = async {
        // Every message of the server: a type, and a length that counts itself.
        while let Ok(kind) = from_server.read_u8().await {
            let Ok(length) = from_server.read_u32().await else { return };
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            if from_server.read_exact(&mut body).await.is_err() {
                return;
            }
            if kind == b'N' {
                plans.lock().unwrap().extend(plan(&body));
            }
            let arrives = flights.lock().unwrap().arrives();
            if let Some(arrives) = arrives {
                sleep_until(arrives).await;
            }
            flights.lock().unwrap().answered = true;
            let message = [&[kind][..], &length.to_be_bytes(), &body].concat();
            if to_client.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(up, down);
}

impl Flights {
    fn sent(&mut self, bytes: &[u8]) {
        if self.answered && !bytes.windows(8).any(|word| word == b"ROLLBACK") {
            self.count += 1;
            self.answered = false;
            self.began = Some(Instant::now());
        }
    }

    /// When an answer is back, if flights are counted.
    fn arrives(&self) -> Option<Instant> {
        self.began.filter(|_| self.counts).map(|began| began + DISTANCE)
    }
}

/// The plan in a notice: fields of a letter and a text that ends with NUL, of which `M` is the
/// message.
fn plan(body: &[u8]) -> Option<Value> {
    let message = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"))?;
    let text = std::str::from_utf8(message).ok()?;
    text.split_once("plan:\n").map(|(_, json)| serde_json::from_str(json).unwrap())
}

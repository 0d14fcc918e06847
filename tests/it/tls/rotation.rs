//! New certificates while the service runs and is called.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::join_all;

use super::{health, served};
use crate::support::{
    certs::{Authority, Days, Mounted, Trust},
    eventually,
    process::{Log, Service},
};

const PATIENCE: Duration = Duration::from_secs(30);
const ROTATIONS: usize = 5;
const CLIENTS: usize = 24;

/// Half of the clients keep their connection all the time, the others make a new one for every few
/// calls. Nobody's call fails; they are calls without a database, which may be slow for other
/// reasons.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_under_load_and_nobody_notices() {
    let authority = Authority::new();
    let (mut pair, mounted) = served(&authority, None);
    let service = start(&mounted, &["--tls-reload-interval", "20ms"]).await;
    let trust = Trust::of(&authority);
    // The service tells its address before it reads its certificate: one that came in between would
    // be its first.
    serves(&trust, &service, pair.serial).await;
    let (stop, calls, connections) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let call = async |number: usize| {
        let (mut channel, _) = trust.connect(service.address).await.unwrap();
        for round in 1_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if number.is_multiple_of(2) && round.is_multiple_of(5) {
                (channel, _) = trust.connect(service.address).await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
            }
            health(channel.clone()).await.unwrap();
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    let rotate = async {
        for _ in 0..ROTATIONS {
            let (called, connected) =
                (calls.load(Ordering::Relaxed), connections.load(Ordering::Relaxed));
            pair = authority.server();
            mounted.swap(&pair, None);
            serves(&trust, &service, pair.serial).await;
            let more = || {
                calls.load(Ordering::Relaxed) > called + 100
                    && connections.load(Ordering::Relaxed) > connected + 10
            };
            eventually(PATIENCE, "calls and connections between two rotations", async || {
                more().then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all((0..CLIENTS).map(call)), rotate);
    let reloads = || service.log().text().matches("TLS certificates reloaded").count();
    // The log is read a moment later than it is written.
    eventually(PATIENCE, "a line for each rotation", async || {
        (reloads() >= ROTATIONS).then_some(())
    })
    .await;
    assert_eq!(reloads(), ROTATIONS);
    let (calls, connections) = (calls.into_inner(), connections.into_inner());
    eprintln!(
        "{ROTATIONS} rotations during {calls} calls of {CLIENTS} clients, which made {connections} new connections"
    );
}

#[tokio::test]
async fn what_does_not_fit_together_is_not_taken_until_it_does() {
    let authority = Authority::new();
    let (first, mounted) = served(&authority, None);
    let service = start(&mounted, &["--tls-reload-interval", "20ms"]).await;
    let trust = Trust::of(&authority);
    let (stays, _) = trust.connect(service.address).await.unwrap();
    let second = authority.server();
    // In order: what is wrong with the files, and what the log says.
    let half = &second.cert[..second.cert.len() / 2];
    for (file, text, says) in [
        ("tls.crt", &*second.cert, "is not the key of the first certificate"),
        ("tls.crt", half, "a BEGIN has no END"),
        ("tls.crt", "", "is not PEM: it has no certificate"),
        ("tls.key", "", "is not PEM: it has no certificate"),
    ] {
        fs::write(mounted.path(file), text).unwrap();
        logs(&service.log(), says).await;
        serves(&trust, &service, first.serial).await;
    }
    fs::write(mounted.path("tls.crt"), &second.cert).unwrap();
    logs(&service.log(), "it has no private key").await;
    fs::remove_file(mounted.path("tls.key")).unwrap();
    logs(&service.log(), "cannot be read").await;
    serves(&trust, &service, first.serial).await;
    assert!(!service.log().text().contains("reloaded"));
    fs::write(mounted.path("tls.key"), &second.key).unwrap();
    logs(&service.log(), "TLS certificates reloaded").await;
    serves(&trust, &service, second.serial).await;
    health(stays).await.unwrap();
    let log = service.log().text();
    assert_eq!(
        log.matches("is not the key of the first certificate").count(),
        1,
        "each fault is told once: {log}"
    );
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test]
async fn the_end_of_a_certificate_is_told_before_and_after() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let purposes = [rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let soon = authority.sign(&[], Days(3), "accounts", &purposes);
    let mounted = Mounted::new(&soon, Some(&clients.pem));
    let service = start(&mounted, &["--tls-reload-interval", "20ms"]).await;
    logs(&service.log(), "a TLS certificate expires soon").await;
    assert!(!service.log().text().contains("has expired"));
    mounted.swap(&authority.sign(&[], Days(-1), "accounts", &purposes), None);
    logs(&service.log(), "a TLS certificate has expired").await;
    mounted.swap(&authority.server(), None);
    eventually(PATIENCE, "reloaded twice", async || {
        (service.log().text().matches("TLS certificates reloaded").count() == 2).then_some(())
    })
    .await;
    let log = service.log().text();
    assert_eq!(
        (log.matches("expires soon").count(), log.matches("has expired").count()),
        (1, 1),
        "{log}"
    );
}

async fn start(mounted: &Mounted, arguments: &[&str]) -> Service {
    let options = mounted.options(false);
    let options: Vec<_> =
        options.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    Service::fresh(&options, &[]).await
}

/// Waits until new connections see this certificate.
async fn serves(trust: &Trust<'_>, service: &Service, serial: u64) {
    let seen = async || (trust.connect(service.address).await.unwrap().1 == serial).then_some(());
    eventually(PATIENCE, "the certificate on new connections", seen).await;
}

async fn logs(log: &Log, text: &str) {
    eventually(PATIENCE, text, async || log.text().contains(text).then_some(())).await;
}

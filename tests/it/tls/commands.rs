//! What the commands make of TLS: configuration that cannot work, probes, and a service that ends.

use std::{fs, process::Stdio, time::Duration};

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use tokio::{net::TcpStream, process::Command, time::timeout};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{PORTAL, ask, served};
use crate::support::{
    certs::{Authority, LONG, Mounted, Trust},
    eventually,
    process::{Service, run},
    skip,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_configuration_that_cannot_work_is_told_by_option_file_and_fault() {
    let authority = Authority::new();
    let (_, mounted) = served(&authority, Some(&authority.pem));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key, ca) =
        (mounted.path("tls.crt"), mounted.path("tls.key"), mounted.path("ca.crt"));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let text = file("text", "nothing of the kind");
    let other_key = file("other.key", &authority.server().key);
    let wrapped = file("wrapped", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let torn = file("torn", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let locked = file(
        "locked",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let workload = "spiffe://example.org/x";
    for (options, says) in [
        (vec![("--tls-cert", &*cert)], vec!["--tls-cert", "--tls-key"]),
        (vec![("--tls-key", &key)], vec!["--tls-key", "--tls-cert"]),
        (vec![("--tls-client-ca", &ca)], vec!["--tls-client-ca", "--tls-cert"]),
        (
            vec![("--tls-cert", &missing), ("--tls-key", &key)],
            vec!["--tls-cert", &missing, "cannot be read"],
        ),
        (
            vec![("--tls-cert", &cert), ("--tls-key", &missing)],
            vec!["--tls-key", &missing, "cannot be read"],
        ),
        (vec![("--tls-cert", &text), ("--tls-key", &key)], vec!["--tls-cert", &text, "is not PEM"]),
        (vec![("--tls-cert", &torn), ("--tls-key", &key)], vec!["--tls-cert", &torn, "is not PEM"]),
        (
            vec![("--tls-cert", &wrapped), ("--tls-key", &key)],
            vec!["--tls-cert", &wrapped, "cannot be parsed"],
        ),
        (
            vec![("--tls-cert", &key), ("--tls-key", &key)],
            vec!["--tls-cert", &key, "has no certificate"],
        ),
        (vec![("--tls-cert", &cert), ("--tls-key", &text)], vec!["--tls-key", &text, "is not PEM"]),
        (
            vec![("--tls-cert", &cert), ("--tls-key", &cert)],
            vec!["--tls-key", &cert, "has no private key"],
        ),
        (
            vec![("--tls-cert", &cert), ("--tls-key", &locked)],
            vec!["--tls-key", &locked, "is encrypted"],
        ),
        (
            vec![("--tls-cert", &cert), ("--tls-key", &other_key)],
            vec!["--tls-key", &other_key, "is not the key", &cert],
        ),
        (
            vec![("--tls-cert", &cert), ("--tls-key", &key), ("--tls-client-ca", &key)],
            vec!["--tls-client-ca", &key, "has no certificate"],
        ),
        (
            vec![("--allowed-workloads", workload)],
            vec!["--allowed-workloads", "--tls-client-ca", "--mesh-header"],
        ),
        (
            vec![("--mesh-proxies", workload), ("--mesh-header", "x")],
            vec!["--mesh-proxies", "--tls-client-ca"],
        ),
        (vec![("--allowed-workloads", "*")], vec!["--allowed-workloads", "SPIFFE"]),
        (vec![("--mesh-header", "not a header")], vec!["--mesh-header", "header"]),
        (vec![("--handshake-timeout", "0s")], vec!["--handshake-timeout", "1ms"]),
    ] {
        let environment: Vec<_> = options
            .iter()
            .map(|(option, value)| {
                (
                    format!("CUSTOMER_ACCOUNTS_{}", option[2..].replace('-', "_").to_uppercase()),
                    *value,
                )
            })
            .collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (&**name, *value)).collect();
        let arguments: Vec<_> =
            options.iter().flat_map(|(option, value)| [*option, *value]).collect();
        let data = folder.path().join("never");
        for command in ["serve", "check"] {
            let common = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap(), command];
            let refused = run(&[&common, &*arguments].concat(), &[]).await;
            assert!(refused.code.is_some_and(|code| code != 0), "{options:?}: {refused:?}");
            for part in &says {
                assert!(
                    refused.stderr.contains(part),
                    "{options:?}: {part} is not in {}",
                    refused.stderr
                );
            }
            let same = run(&common, &environment).await;
            assert_eq!(
                same.stderr.lines().next(),
                refused.stderr.lines().next(),
                "{environment:?}"
            );
        }
        assert!(!data.exists(), "refused before anything is made");
    }
}

#[tokio::test]
async fn tls_alone_is_no_reason_to_believe_requests_from_elsewhere() {
    let authority = Authority::new();
    let (_, mounted) = served(&authority, Some(&authority.pem));
    let options = mounted.options(true);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let refused = run(&[&["--listen", "0.0.0.0:0", "serve"], &*options].concat(), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("--listen") && refused.stderr.contains("loopback"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn commands_reach_a_service_with_tls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, None);
    let options = mounted.options(false);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let service = Service::fresh(&options, &[]).await;
    let address = service.address.to_string();
    let command = |command, options: &[&str]| {
        let arguments: Vec<String> = ["--listen", &address, command]
            .iter()
            .chain(options)
            .map(ToString::to_string)
            .collect();
        async move { run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await }
    };
    for name in ["healthcheck", "seed"] {
        let fine = command(name, &options).await;
        assert_eq!(fine.code, Some(0), "{fine:?}");
    }
    let plain = command("healthcheck", &[]).await;
    assert_eq!(plain.code, Some(1), "{plain:?}");
    let (_, elsewhere) = served(&other, None);
    let certificate = elsewhere.path("tls.crt");
    let wrong = command("healthcheck", &["--tls-cert", &certificate]).await;
    assert_eq!(wrong.code, Some(1), "another certificate is not trusted: {wrong:?}");
}

#[tokio::test]
async fn commands_reach_a_service_with_mutual_tls() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let both = authority.sign(&["accounts.shop"], LONG, "accounts", &[ServerAuth, ClientAuth]);
    let mounted = Mounted::new(&both, Some(&format!("{}{}", authority.pem, clients.pem)));
    let options = mounted.options(true);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let service =
        Service::fresh(&[&*options, &["--allowed-workloads", PORTAL]].concat(), &[]).await;
    let address = service.address.to_string();
    let own = run(&[&["--listen", &address, "healthcheck"], &*options].concat(), &[]).await;
    assert_eq!(own.code, Some(0), "the service's own certificate, made for both sides: {own:?}");
    let nothing = run(&["--listen", &address, "healthcheck", options[0], options[1]], &[]).await;
    assert_eq!(nothing.code, Some(1), "no certificate: {nothing:?}");

    let shown = Mounted::new(&clients.client(&[PORTAL]), None);
    let (cert, key) = (shown.path("tls.crt"), shown.path("tls.key"));
    let common = [&["--listen", &*address], &*options, &["--client-cert", &*cert]].concat();
    for command in ["healthcheck", "seed"] {
        let fine = run(&[&*common, &["--client-key", &*key, command]].concat(), &[]).await;
        assert_eq!(fine.code, Some(0), "{fine:?}");
    }
    let half = run(&[&*common, &["healthcheck"]].concat(), &[]).await;
    assert!(half.code == Some(1) && half.stderr.contains("--client-key"), "{half:?}");
    service.terminate();
    let log = service.log();
    service.ended().await;
    eventually(PATIENCE, "the failed handshake", async || {
        log.text().contains("a TLS handshake has failed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_log_names_the_workload_of_a_call() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let options = mounted.options(true);
    let options: Vec<_> =
        options.iter().map(String::as_str).chain(["--log", "customer_accounts=debug"]).collect();
    let service = Service::fresh(&options, &[]).await;
    let pair = clients.client(&[PORTAL]);
    let (channel, _) = Trust::of(&authority).showing(&pair).connect(service.address).await.unwrap();
    ask(channel).await.unwrap();
    let line = eventually(PATIENCE, "the call in the log", async || {
        let log = service.log().text();
        log.lines()
            .find(|line| line.contains("call finished") && line.contains("ListAccountTypes"))
            .map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["workload"], PORTAL, "{line}");
}

#[tokio::test]
async fn a_service_with_tls_ends_whatever_its_connections_do() {
    let authority = Authority::new();
    let (_, mounted) = served(&authority, None);
    let options = mounted.options(false);
    let options: Vec<_> = options
        .iter()
        .map(String::as_str)
        .chain(["--shutdown-deadline", "30s", "--handshake-timeout", "1h"])
        .collect();
    let service = Service::fresh(&options, &[]).await;
    let address = service.address;
    let _silent = TcpStream::connect(address).await.unwrap();
    let (channel, _) = Trust::of(&authority).connect(address).await.unwrap();
    let mut watch =
        HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    service.terminate();
    let next = timeout(PATIENCE, watch.message()).await.expect("a status in time");
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    eventually(PATIENCE, "no new connections", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    let status = timeout(PATIENCE, service.ended()).await.expect("long before the deadline");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn grpcurl_calls_a_service_with_mutual_tls() {
    let grpcurl = async |arguments: &[&str]| {
        let output = Command::new("grpcurl")
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        timeout(Duration::from_mins(1), output).await.expect("ends in time")
    };
    if !grpcurl(&["--version"]).await.is_ok_and(|output| output.status.success()) {
        skip("grpcurl is not there");
        return;
    }
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let here = super::Here::serve(&[&mounted.options(true)]).await;
    let shown = Mounted::new(&clients.client(&[PORTAL]), Some(&authority.pem));
    let (ca, cert, key) = (shown.path("ca.crt"), shown.path("tls.crt"), shown.path("tls.key"));
    let address = here.address.to_string();
    let call = [&*address, "accounts.v1.AccountTypeService/ListAccountTypes"];
    let answered = grpcurl(&[&["-cacert", &*ca, "-cert", &cert, "-key", &key], &call[..]].concat())
        .await
        .unwrap();
    assert!(answered.status.success(), "{}", String::from_utf8_lossy(&answered.stderr));
    let nobody =
        grpcurl(&[&["-connect-timeout", "3", "-cacert", &*ca], &call[..]].concat()).await.unwrap();
    assert!(!nobody.status.success());
}

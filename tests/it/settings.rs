//! Wrong settings say what is wrong, and help shows what a command uses.

use std::{collections::HashSet, net::SocketAddr};

use clap::CommandFactory as _;
use customer_accounts::{config::Cli, server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    config,
    process::{Finished, Service, run},
    real_database, sql,
};

/// A message of PostgreSQL's protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// A refusal of the login.
fn fatal(code: &str, words: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{words}\0\0").as_bytes())
}

/// A server that sends these bytes on every connection.
async fn server_that_says(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut startup = [0; 1024];
                let _ = client.read(&mut startup).await;
                let _ = client.write_all(&answer).await;
                let _ = client.read(&mut startup).await;
            });
        }
    });
    address
}

/// The last line, which is the error that the person at the terminal reads.
fn error(finished: &Finished) -> &str {
    finished.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default()
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_by_the_cause() {
    let version = [
        message(b'R', &0_u32.to_be_bytes()),
        message(b'S', b"server_version\x0014.9 (Debian)\0"),
        message(b'Z', b"I"),
    ];
    let password =
        server_that_says(fatal("28P01", "password authentication failed for user \"service\""))
            .await;
    let role = server_that_says(fatal("28000", "role \"service\" does not exist")).await;
    let database = server_that_says(fatal("3D000", "database \"accounts\" does not exist")).await;
    let full = server_that_says(fatal("53300", "sorry, too many clients already")).await;
    let old = server_that_says(version.concat()).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (server, says) in [
        (password.to_string(), vec!["password authentication failed for user \"service\""]),
        (role.to_string(), vec!["role \"service\" does not exist"]),
        (database.to_string(), vec!["database \"accounts\" does not exist"]),
        (full.to_string(), vec!["too many clients"]),
        (old.to_string(), vec!["PostgreSQL 14.9", "15 or later"]),
        (nobody.to_string(), vec![&*nobody.to_string(), "refused"]),
        (
            "no-such-host.invalid:5432".to_owned(),
            vec!["the host \"no-such-host.invalid\" is not found"],
        ),
        // The first cannot be looked up, but the second can.
        (format!("no-such-host.invalid:5432,{role}"), vec!["role \"service\" does not exist"]),
    ] {
        let url = format!("postgres://service:hunter2@{server}/accounts");
        let listen = ["--listen", "127.0.0.1:0"];
        for command in
            [&["check"][..], &["serve"], &["serve", "--migrate", "false"], &["migrate"], &["prune"]]
        {
            let refused = run(&[command, &listen].concat(), &[("DATABASE_URL", &url)]).await;
            assert_eq!(refused.code, Some(1), "{command:?}: {refused:?}");
            for part in &says {
                assert!(
                    error(&refused).contains(part),
                    "{command:?}: {part} is not in {refused:?}"
                );
            }
            assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_url_says_which_parameter_cannot_be_used() {
    for (query, says) in [
        ("sslmode=prefer", "sslmode=prefer would leave it to the network whether"),
        ("sslmode=verify-full&connect_timeout=2", "sslmode=verify-ca and verify-full need sslroot"),
        ("connect_timeout=2&sslrootcert=/ca.pem", "sslrootcert needs an sslmode"),
        ("sslmode=disable&sslrootcert=/ca.pem", "sslrootcert has no effect with sslmode=disable"),
        ("sslmode=bogus", "sslmode has no such value; it takes"),
        ("gssencmode=disable", "unknown option `gssencmode`"),
        ("connect_timeout=soon", "invalid value for option `connect_timeout`"),
        ("target_session_attrs=standby", "invalid value for option `target_session_attrs`"),
    ] {
        for (option, variable) in [
            ("DATABASE_URL", "DATABASE_URL"),
            ("--migration-database-url", "CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL"),
        ] {
            let url = format!("postgres://u:hunter2@127.0.0.1:1/d?{query}");
            let refused = run(
                &["migrate"],
                &[("DATABASE_URL", "postgres://u@127.0.0.1:1/d"), (variable, &url)],
            )
            .await;
            let begins = format!("error: {option}: {says}");
            assert!(
                refused.code == Some(1) && error(&refused).starts_with(&begins),
                "{query}: {refused:?}"
            );
            assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
        }
    }
    for url in ["mysql://u:hunter2@h/d", "127.0.0.1:5432", "hunter2"] {
        let malformed = run(&["check"], &[("DATABASE_URL", url)]).await;
        let begins = "error: DATABASE_URL: it does not begin with postgres://; it takes";
        assert!(error(&malformed).starts_with(begins), "{malformed:?}");
        assert!(!malformed.stderr.contains("hunter2"), "{malformed:?}");
    }
    // As it comes from a file.
    let absent = run(&["check"], &[("DATABASE_URL", " postgres://u@127.0.0.1:1/d\n")]).await;
    assert!(error(&absent).contains("127.0.0.1:1: "), "{absent:?}");
}

/// The variables of all options, of all commands.
fn variables() -> HashSet<String> {
    let cli = Cli::command();
    let of = |command: &clap::Command| {
        command.get_arguments().filter_map(|arg| arg.get_env()).map(ToOwned::to_owned).collect()
    };
    let all: Vec<Vec<_>> = [of(&cli)].into_iter().chain(cli.get_subcommands().map(of)).collect();
    all.into_iter().flatten().map(|name: std::ffi::OsString| name.into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_variable_that_is_empty_is_not_set() {
    let variables = variables();
    assert!(variables.len() > 40 && variables.contains("CUSTOMER_ACCOUNTS_TOKEN"), "{variables:?}");
    let otel = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_TRACES_EXPORTER",
        "OTEL_SDK_DISABLED",
    ];
    let empty: Vec<_> =
        variables.iter().map(|name| (&**name, "")).chain(otel.map(|name| (name, ""))).collect();
    let folder = tempfile::tempdir().unwrap();
    let (data, key) = (folder.path().join("data"), folder.path().join("key"));
    let service = Service::start(&["--data-dir", data.to_str().unwrap()], &empty).await;
    let mut health = HealthClient::new(service.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    // Commands with options of their own.
    let address = service.address.to_string();
    let seeded = run(&["seed", "--listen", &address], &empty).await;
    assert_eq!(seeded.code, Some(0), "{seeded:?}");
    let token = run(&["token", "--key-dir", key.to_str().unwrap()], &empty).await;
    assert_eq!(token.code, Some(0), "{token:?}");
    // On the command line empty is a value.
    let refused = run(&["check", "--listen", ""], &[]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("--listen"), "{refused:?}");
}

#[tokio::test]
async fn a_filter_of_log_lines_that_would_silence_the_log_is_refused() {
    for filter in [
        "verbose",
        "Information",
        "info,verbose",
        "customer_accounts",
        "customer_accounts=loud",
        "",
    ] {
        for finished in [
            run(&["check", "--log", filter], &[]).await,
            run(&["check"], &[("CUSTOMER_ACCOUNTS_LOG", filter)]).await,
        ] {
            if filter.is_empty() && !finished.stderr.contains("--log") {
                continue; // the variable, which is not set then
            }
            assert!(finished.code.is_some_and(|code| code != 0), "{filter}: {finished:?}");
            assert!(
                finished.stderr.contains("--log")
                    && finished.stderr.contains("warn,customer_accounts=debug"),
                "{finished:?}"
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    for filter in [
        "info",
        "WARN",
        "off",
        "3",
        "warn,customer_accounts=debug,h2=off",
        "info,[span{field=1}]=debug",
    ] {
        let accepted = run(&["token", "--data-dir", &data, "--log", filter], &[]).await;
        assert_eq!(accepted.code, Some(0), "{filter}: {accepted:?}");
    }
}

#[tokio::test]
async fn the_service_listens_on_a_name() {
    let service = Service::fresh(&["--listen", "localhost:0"], &[]).await;
    assert!(service.address.ip().is_loopback(), "{}", service.address);
    let by_name = format!("localhost:{}", service.address.port());
    for command in ["healthcheck", "seed"] {
        let answered = run(&[command, "--listen", &by_name], &[]).await;
        assert_eq!(answered.code, Some(0), "{answered:?}");
    }
    let unknown = run(&["serve", "--listen", "no-such-host.invalid:1"], &[]).await;
    assert!(
        unknown.code == Some(1) && unknown.stderr.contains("--listen no-such-host.invalid:1: "),
        "{unknown:?}"
    );
    for wrong in ["localhost", "localhost:grpc", ":50051"] {
        let refused = run(&["serve", "--listen", wrong], &[]).await;
        assert!(
            refused.code == Some(2) && refused.stderr.contains("localhost:50051"),
            "{wrong}: {refused:?}"
        );
    }
}

/// Everybody is believed on loopback addresses only, also under a name that has others.
#[tokio::test]
async fn a_name_with_an_address_that_others_reach_needs_tokens() {
    let addresses = |texts: &[&str]| {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>()
    };
    let believing = |texts: &[&str]| server::identity_on(&config(&[]), &addresses(texts)).map(drop);
    believing(&["127.0.0.1:1", "[::1]:1"]).unwrap();
    for reachable in [
        &["127.0.0.1:1", "10.0.0.1:1"][..],
        &["10.0.0.1:1", "127.0.0.1:1"],
        &["[::1]:1", "[2001:db8::1]:1"],
    ] {
        let refused = believing(reachable).unwrap_err().to_string();
        assert!(refused.contains("loopback addresses only"), "{reachable:?}: {refused}");
    }
}

#[tokio::test]
async fn help_shows_what_a_command_uses() {
    let all = [
        "--listen",
        "--database-url",
        "--tls-cert",
        "--token-issuer",
        "--max-calls",
        "--max-connections",
        "--log",
    ];
    for (command, shows, hides) in [
        ("serve", &all[..], &[][..]),
        ("check", &all, &[]),
        (
            "migrate",
            &["--database-url", "--data-dir", "--revert", "--log"],
            &["--tls", "--token", "--listen", "--max", "--watch"],
        ),
        (
            "prune",
            &["--database-url", "--min-activity-retention"],
            &["--tls", "--token", "--listen", "--max"],
        ),
        (
            "healthcheck",
            &["--listen", "--tls-cert", "--client-cert"],
            &["--database", "--token", "--max", "--data-dir"],
        ),
        (
            "seed",
            &["--listen", "--tls-cert", "--token", "Examples:"],
            &["--database", "--token-issuer", "--max"],
        ),
        (
            "token",
            &["--data-dir", "--token-audience", "Examples:"],
            &["--database", "--tls", "--listen", "--token-issuer"],
        ),
    ] {
        let help = run(&[command, "--help"], &[]).await;
        assert_eq!(help.code, Some(0), "{help:?}");
        // At the beginning of a line, where an option stands that is not just mentioned.
        let lines: Vec<_> = help.stdout.lines().map(str::trim_start).collect();
        for wanted in shows {
            assert!(
                lines.iter().any(|line| line.starts_with(wanted)),
                "{command}: {wanted} is not in {}",
                help.stdout
            );
        }
        for unwanted in hides {
            assert!(
                !lines.iter().any(|line| line.starts_with(unwanted)),
                "{command}: {unwanted} is in {}",
                help.stdout
            );
        }
    }
    let help = run(&["--help"], &[]).await.stdout;
    for heading in [
        "Commands:",
        "Address:",
        "Database:",
        "TLS and workloads:",
        "Tokens:",
        "Limits of calls:",
        "Logs:",
        "Examples:",
    ] {
        assert!(help.lines().any(|line| line == heading), "{heading} is not in {help}");
    }
}

#[tokio::test]
async fn the_database_sees_who_is_connected() {
    let Some(url) = real_database("application_name").await else { return };
    let sql = sql(&url).await;
    let names = async || {
        let names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() \
                     AND pid <> pg_backend_pid() AND application_name <> ''";
        let rows = sql.query(names, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let service = Service::on(&url, &[]).await;
    assert_eq!(names().await, [format!("customer-accounts {} serve", env!("CARGO_PKG_VERSION"))]);
    service.kill().await;
    let separator = if url.contains('?') { '&' } else { '?' };
    let _named = Service::on(&format!("{url}{separator}application_name=blue"), &[]).await;
    assert!(names().await.contains(&"blue".to_owned()));
}

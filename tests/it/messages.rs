//! The messages that people read, as a whole: at the start of the service, and in an error.

use customer_accounts::proto::{Account, CreateAccountRequest};

use crate::support::{Tenant, account, process::run, refused, violations};

/// What a command that fails says, without the hint at `--help`.
async fn said(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = [("CUSTOMER_ACCOUNTS_DATA_DIR", data.to_str().unwrap())];
    let finished = run(arguments, &data).await;
    assert!(finished.code.is_some_and(|code| code != 0), "{arguments:?}: {finished:?}");
    assert_eq!(finished.stdout, "", "{arguments:?}");
    let (message, _) = finished.stderr.split_once("\n\n").unwrap_or((&finished.stderr, ""));
    format!("$ {}\n{}\n", arguments.join(" "), message.trim_end())
}

#[tokio::test]
async fn options_that_are_refused() {
    let mut all = String::new();
    for arguments in [
        &["serve", "--no-such-option"][..],
        &["serve", "--pool-size", "0"],
        &["serve", "--listen", "localhost"],
        &["serve", "--log", "nonsense=loud"],
        &["serve", "--allowed-workloads", "*"],
        &["serve", "--mesh-header", "not a header"],
        &["serve", "--token-issuer", "nonsense"],
    ] {
        all += &said(arguments).await;
    }
    insta::assert_snapshot!(all, @r#"
    $ serve --no-such-option
    error: unexpected argument '--no-such-option' found
    $ serve --pool-size 0
    error: invalid value '0' for '--pool-size <POOL_SIZE>': 0 is not in 1..=1000
    $ serve --listen localhost
    error: invalid value 'localhost' for '--listen <HOST:PORT>': the port is missing; it takes a host and a port: 127.0.0.1:50051, [::1]:50051, localhost:50051
    $ serve --log nonsense=loud
    error: invalid value 'nonsense=loud' for '--log <LOG>': error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5; it takes off, error, warn, info, debug or trace, and targets with one of them: warn,customer_accounts=debug
    $ serve --allowed-workloads *
    error: invalid value '*' for '--allowed-workloads <ALLOWED_WORKLOADS>': "*": a workload is a SPIFFE ID, such as spiffe://example.org/ns/shop/sa/portal, one that ends with /*, or a DNS name
    $ serve --mesh-header not a header
    error: invalid value 'not a header' for '--mesh-header <MESH_HEADER>': the name of an HTTP header
    $ serve --token-issuer nonsense
    error: invalid value 'nonsense' for '--token-issuer <ISSUER=JWKS>': as https://issuer.example=https://issuer.example/keys, or with the path of a file after the `=`
    "#);
}

#[tokio::test]
async fn starts_that_are_refused() {
    let mut all = String::new();
    for arguments in [
        &["serve", "--listen", "0.0.0.0:0"][..],
        &["serve", "--tls-cert", "tls.crt"],
        &["check", "--tls-cert", "/missing/tls.crt", "--tls-key", "/missing/tls.key"],
        &["check", "--database-url", "postgres://service:secret@127.0.0.1:1/accounts"],
        &["healthcheck", "--listen", "127.0.0.1:1"],
        &["seed", "--listen", "127.0.0.1:1"],
    ] {
        all += &said(arguments).await;
    }
    insta::assert_snapshot!(all, @r"
    $ serve --listen 0.0.0.0:0
    error: --listen 0.0.0.0:0: without credentials configured a request names its own caller, so the service serves on loopback addresses only, such as 127.0.0.1:50051; configure --token-issuer and --token-audience
    $ serve --tls-cert tls.crt
    error: --tls-cert is set, but not --tls-key, which it requires
    $ check --tls-cert /missing/tls.crt --tls-key /missing/tls.key
    error: --tls-cert /missing/tls.crt: cannot be read: No such file or directory (os error 2)
    $ check --database-url postgres://service:secret@127.0.0.1:1/accounts
    error: cannot connect to the database: 127.0.0.1:1: Connection refused (os error 111)
    $ healthcheck --listen 127.0.0.1:1
    error: no service answers on 127.0.0.1:1 (--listen): Connection refused (os error 111)
    $ seed --listen 127.0.0.1:1
    error: no service answers on 127.0.0.1:1 (--listen): Connection refused (os error 111)
    ");
}

#[tokio::test]
async fn an_invalid_request() {
    let account = Account { display_name: String::new(), status: 9, ..account("a b", "acme") };
    let request = CreateAccountRequest { account: Some(account), ..Default::default() };
    let answer = Tenant::new().await.accounts().create_account(request).await;
    let (status, details) = refused(&answer);
    let info = details.error_info().unwrap();
    let mut lines = vec![
        format!("{:?}: {}", status.code(), status.message()),
        format!("{} of {} {:?}", info.reason, info.domain, info.metadata),
    ];
    lines.extend(violations(answer).iter().map(|(field, rule)| format!("{field}: {rule}")));
    insta::assert_snapshot!(lines.join("\n"), @r"
    InvalidArgument: 2 invalid fields: account.display_name: is required; account.status: has no value 9
    INVALID_FIELD of accounts.v1 {}
    account.display_name: is required
    account.status: has no value 9
    ");
}

//! `customer-accounts token`, and what the program says about its configuration and about refused
//! tokens.

use std::fs;

use serde_json::json;

use crate::support::{
    fresh_database,
    process::{Finished, Service, run},
    raw, real_server, refusal,
    tokens::{Answer, Issuer, Key, but},
};
use tonic::{Status, transport::Channel};

/// The options that the command tells a service to be started with.
fn options(made: &Finished) -> Vec<String> {
    let line =
        made.stderr.lines().find_map(|line| line.strip_prefix("serve with: ")).expect("options");
    line.split(' ').map(str::to_owned).collect()
}

async fn read(channel: &Channel, token: &str) -> Result<(), Status> {
    let bearer = format!("Bearer {token}");
    let headers: &[(&str, &[u8])] = &[("authorization", bearer.as_bytes())];
    raw::call(channel, "AccountTypeService/ListAccountTypes", headers, b"").await.map(drop)
}

#[tokio::test]
async fn a_token_of_the_command_is_good_for_a_service_with_the_options_it_prints() {
    // The folder is also the data folder of an embedded server.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let made = run(&["token", "--data-dir", &data], &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let again =
        run(&["token", "--data-dir", &data, "--roles", "viewer,editor", "--subject", "jane"], &[])
            .await;
    assert_eq!(options(&made), options(&again), "the same key");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let key = fs::metadata(format!("{data}/development-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(&data).unwrap().count(), 2, "the key, its set and nothing else");

    let options = options(&made);
    let arguments: Vec<_> =
        ["--data-dir", &data].into_iter().chain(options.iter().map(String::as_str)).collect();
    let url = match real_server() {
        Some(server) => Some(fresh_database(&server).await),
        None => None,
    };
    let environment: Vec<_> = url.iter().map(|url| ("DATABASE_URL", url.as_str())).collect();
    let service = Service::start(&arguments, &environment).await;
    let channel = service.channel().await;
    read(&channel, made.stdout.trim()).await.unwrap();
    read(&channel, again.stdout.trim()).await.unwrap();
    let write = |token: &str| {
        let (channel, bearer) = (channel.clone(), format!("Bearer {}", token.trim()));
        async move {
            let headers: &[(&str, &[u8])] = &[("authorization", bearer.as_bytes())];
            raw::call(&channel, "AccountTypeService/CreateAccountType", headers, b"").await
        }
    };
    // A caller who may not create types is refused before the type is validated.
    assert_eq!(refusal(write(&again.stdout).await), "PERMISSION_DENIED");
    assert_eq!(refusal(write(&made.stdout).await), "INVALID_FIELD");

    let address = service.address.to_string();
    let without = run(&["seed", "--listen", &address], &[]).await;
    assert_eq!(without.code, Some(1), "{without:?}");
    let seeded =
        run(&["seed", "--listen", &address], &[("CUSTOMER_ACCOUNTS_TOKEN", made.stdout.trim())])
            .await;
    assert_eq!(seeded.code, Some(0), "{seeded:?}");
    assert_eq!(run(&["healthcheck", "--listen", &address], &[]).await.code, Some(0));
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused_with_the_option() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for (option, value) in [
        ("--tenant", "a b"),
        ("--subject", ""),
        ("--roles", "root"),
        ("--expires-in", "soon"),
        ("--key-dir", "/dev/null/x"),
    ] {
        let refused = run(&["token", "--data-dir", data, option, value], &[]).await;
        assert!(refused.code.is_some_and(|code| code != 0), "{option}: {refused:?}");
        assert!(
            refused.stderr.contains(option) && refused.stdout.is_empty(),
            "{option}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn half_a_configuration_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("never").to_str().unwrap().to_owned();
    let key = folder.path().join("keys.json");
    fs::write(&key, crate::support::tokens::key_set(&[&Key::es256("k")])).unwrap();
    let good = format!("i={}", key.display());
    let other = format!("other={}", key.display());
    let missing = format!("i={}/missing.json", folder.path().display());
    for (arguments, said) in [
        (vec!["--token-issuer", good.as_str()], vec!["--token-issuer", "--token-audience"]),
        (vec!["--token-audience", "a"], vec!["--token-audience", "--token-issuer"]),
        (
            vec!["--token-issuer", &good, "--token-issuer", &good, "--token-audience", "a"],
            vec!["--token-issuer", "more than once"],
        ),
        (
            vec!["--token-issuer", &good, "--token-issuer", &other, "--token-audience", "a"],
            vec!["--token-actor-prefix other="],
        ),
        (
            vec!["--token-issuer", &good, "--token-audience", "a", "--token-actor-prefix", "x=y"],
            vec!["--token-actor-prefix", "x"],
        ),
        (
            vec!["--token-issuer", &good, "--token-audience", "a", "--token-actor-prefix", "y"],
            vec!["--token-actor-prefix", "="],
        ),
        (
            vec!["--token-issuer", &missing, "--token-audience", "a"],
            vec!["--token-issuer", "missing.json"],
        ),
        (
            vec!["--token-issuer", "i=http://issuer.example/keys", "--token-audience", "a"],
            vec!["--token-issuer", "https"],
        ),
        (
            vec!["--token-issuer", "https://issuer.example", "--token-audience", "a"],
            vec!["--token-issuer", "="],
        ),
        (vec!["--jwks-max-stale", "0s"], vec!["--jwks-max-stale", "1ms"]),
        (vec!["--token-leeway", "1h"], vec!["--token-leeway", "5m"]),
    ] {
        for command in ["serve", "check"] {
            let all = [&arguments[..], &["--listen", "127.0.0.1:0", "--data-dir", &data, command]]
                .concat();
            let refused = run(&all, &[]).await;
            assert!(refused.code.is_some_and(|code| code != 0), "{arguments:?}: {refused:?}");
            assert!(
                said.iter().all(|word| refused.stderr.contains(word)),
                "{arguments:?}: {refused:?}"
            );
        }
    }
    assert!(!fs::exists(&data).unwrap());
}

#[tokio::test]
async fn the_log_says_why_a_token_was_refused_and_nothing_about_whom() {
    let key = Key::es256("a-key-id-that-is-longer-than-need-be");
    let issuer = Issuer::start(Answer::Body(crate::support::tokens::key_set(&[&key]))).await;
    let options = issuer.options();
    let service = Service::fresh(&options.each_ref().map(String::as_str), &[]).await;
    let channel = service.channel().await;
    let secret =
        json!({"sub": "jane.doe@customer.example", "email": "jane.doe@customer.example", "exp": 1});
    let expired = key.sign(&but(issuer.claims("t"), secret));
    let [stranger, person] = ["https://stranger.example", "jane.doe@customer.example"];
    let strange = key.sign(&but(issuer.claims("t"), json!({"iss": stranger, "sub": person})));
    for token in [&expired, &strange] {
        for _ in 0..20 {
            assert_eq!(refusal(read(&channel, token).await), "UNAUTHENTICATED");
        }
    }
    let log = service.log();
    service.terminate();
    service.ended().await;
    let log = log.text();
    let refusals: Vec<_> = log.lines().filter(|line| line.contains("token refused")).collect();
    assert!((2..=20).contains(&refusals.len()), "each cause at most once a second: {log}");
    let line = refusals.iter().find(|line| line.contains("expired")).expect("the cause");
    assert!(
        line.contains(&issuer.name)
            && line.contains("a-key-id-that-is")
            && !line.contains("longer"),
        "{line}"
    );
    assert!(refusals.iter().any(|line| line.contains("the issuer is not configured")), "{log}");
    for private in [
        person,
        stranger,
        &expired,
        &strange,
        expired.split('.').nth(1).unwrap(),
        expired.split('.').nth(2).unwrap(),
    ] {
        assert!(!log.contains(private), "{private} in {log}");
    }
}

//! The keys of issuers: rotation, and issuers that go away, come back, or answer nonsense.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tonic::{Code, Status};

use super::UNAUTHENTICATED;
use crate::support::{
    certs::Authority,
    config, eventually,
    process::Service,
    raw, refusal, refused,
    tokens::{AUDIENCE, Answer, Guarded, Issuer, Key, claims, key_set},
};

/// Longest that a change may take to arrive.
const SOON: Duration = Duration::from_secs(20);
/// A service that asks its issuer all the time.
const EAGER: [&str; 4] = ["--jwks-refresh", "50ms", "--jwks-floor", "20ms"];

const UNAVAILABLE: &str = "ISSUER_UNAVAILABLE";

/// Waits until the issuer was asked so many times more.
async fn asked_again(issuer: &Issuer, times: usize) {
    let wanted = issuer.asked() + times;
    eventually(SOON, "another look at the keys", async || (issuer.asked() >= wanted).then_some(()))
        .await;
}

#[tokio::test]
async fn a_service_starts_without_its_issuer_and_finds_it_later() {
    let key = Key::es256("k");
    let issuer = Issuer::start(Answer::Gone).await;
    let service = Guarded::by(&issuer, &["--jwks-floor", "100ms"]).await;
    let token = key.sign(&issuer.claims("t"));
    let answer = service.read(&token).await;
    assert_eq!(refusal(&answer), UNAVAILABLE);
    let (_, details) = refused(answer);
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    // Bad tokens that need no keys to be seen as such are told so.
    assert_eq!(refusal(service.read("garbage").await), UNAUTHENTICATED);
    issuer.answer(Answer::Body(key_set(&[&key])));
    service.until("the keys", || token.clone(), Result::is_ok).await;
}

#[tokio::test]
async fn keys_come_by_https_from_whom_an_authority_vouches_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let key = Key::es256("k");
    let issuer = Issuer::with_tls(&[&key], &authority.server()).await;
    let folder = tempfile::tempdir().unwrap();
    let token = format!("Bearer {}", key.sign(&issuer.claims("t")));
    for (trusted, expected) in [(&authority, Ok(())), (&other, Err(UNAVAILABLE.to_owned()))] {
        let file = folder.path().join("trusted.pem");
        fs::write(&file, &trusted.pem).unwrap();
        let options = issuer.options();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let service = Service::fresh(&options, &[("SSL_CERT_FILE", file.to_str().unwrap())]).await;
        let headers: raw::Headers<'_> = &[("authorization", token.as_bytes())];
        let answer = raw::call(
            &service.channel().await,
            "AccountTypeService/ListAccountTypes",
            headers,
            b"",
        )
        .await;
        assert_eq!(answer.map(drop).map_err(refusal), expected);
    }
    // An issuer whose certificate is not trusted is never asked.
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn nothing_but_a_good_set_replaces_a_good_set() {
    let (key, other) = (Key::es256("k"), Key::es256("other"));
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &EAGER).await;
    service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    let huge = format!("{}{}", key_set(&[&other]), " ".repeat(2_000_000));
    for (name, answer) in [
        ("gone", Answer::Gone),
        ("500", Answer::Status(500)),
        ("404", Answer::Status(404)),
        ("redirect", Answer::Status(302)),
        ("no JSON", Answer::Body("<html>".into())),
        ("half", Answer::Body(key_set(&[&other])[..80].into())),
        ("nothing", Answer::Body(String::new())),
        ("no keys", Answer::Body(r#"{"keys":[]}"#.into())),
        ("no set", Answer::Body(r#"{"error":"try later"}"#.into())),
        ("a secret", Answer::Body(key_set(&[&Key::secret("k", b"0123456789abcdef")]))),
        ("huge", Answer::Body(huge)),
    ] {
        issuer.answer(answer);
        asked_again(&issuer, 3).await;
        // A new token, which nobody remembers.
        service
            .read(&key.sign(&issuer.claims("t")))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(service.read(&other.sign(&issuer.claims("t"))).await.is_err(), "{name}");
    }
    issuer.answer(Answer::Body(key_set(&[&other])));
    service.until("the new keys", || other.sign(&issuer.claims("t")), Result::is_ok).await;
}

#[tokio::test]
async fn calls_do_not_wait_for_an_issuer_whose_keys_are_there() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &EAGER).await;
    service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    issuer.answer(Answer::Nothing);
    asked_again(&issuer, 1).await;
    // That question is not answered before these.
    for _ in 0..10 {
        service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    }
    issuer.answer(Answer::Gone);
}

#[tokio::test]
async fn a_new_key_is_found_by_one_look() {
    let (old, new) = (Key::es256("old"), Key::rs256("new"));
    let issuer = Issuer::with(&[&old]).await;
    let service = Guarded::by(&issuer, &["--jwks-floor", "200ms"]).await;
    service.read(&old.sign(&issuer.claims("t"))).await.unwrap();
    assert_eq!(issuer.asked(), 1);
    issuer.answer(Answer::Body(key_set(&[&old, &new])));
    service.until("the new key", || new.sign(&issuer.claims("t")), Result::is_ok).await;
    assert_eq!(issuer.asked(), 2);
    // Both are known now, so nobody asks for them.
    for key in [&old, &new, &old, &new] {
        service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    }
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn all_who_wait_for_a_key_share_one_look_and_the_next_is_not_before_its_time() {
    let key = Key::es256("k");
    let issuer = Issuer::start(Answer::Nothing).await;
    let service = Guarded::by(&issuer, &["--jwks-floor", "1h"]).await;
    let kid = |n: usize| if n.is_multiple_of(2) { "k".to_owned() } else { format!("made-up-{n}") };
    let named =
        |kid: String| key.sign_as(&json!({"alg": "ES256", "kid": kid}), &issuer.claims("t"));
    let tokens: Vec<_> = (0..50).map(|n| named(kid(n))).collect();
    let calls = join_all(tokens.iter().map(|token| service.read(token)));
    let release = async {
        eventually(SOON, "a look at the keys", async || (issuer.asked() > 0).then_some(())).await;
        issuer.answer(Answer::Body(key_set(&[&key])));
    };
    let (answers, ()) = tokio::join!(calls, release);
    for (n, answer) in answers.into_iter().enumerate() {
        match n % 2 {
            0 => answer.unwrap(),
            _ => assert_eq!(refusal(answer), UNAUTHENTICATED),
        }
    }
    for n in 50..100 {
        let answer = service.read(&named(format!("made-up-{n}"))).await;
        assert_eq!(refusal(answer), UNAUTHENTICATED);
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn keys_are_used_so_long_and_no_longer_while_their_issuer_is_away() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[&EAGER[..], &["--jwks-max-stale", "5s"]].concat()).await;
    let remembered = key.sign(&issuer.claims("t"));
    service.read(&remembered).await.unwrap();
    issuer.answer(Answer::Gone);
    asked_again(&issuer, 2).await;
    service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    let late = service
        .until("the end of the keys", || key.sign(&issuer.claims("t")), Result::is_err)
        .await;
    for token in [&late, &remembered] {
        assert_eq!(refusal(service.read(token).await), UNAVAILABLE);
    }
    issuer.answer(Answer::Body(key_set(&[&key])));
    service.until("the keys again", || late.clone(), Result::is_ok).await;
    service.read(&remembered).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_withdrawn_takes_its_tokens_with_it() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let issuer = Issuer::with(&[&old, &new]).await;
    let service = Guarded::by(&issuer, &EAGER).await;
    let [stolen, good] = [&old, &new].map(|key| key.sign(&issuer.claims("t")));
    service.read(&stolen).await.unwrap();
    service.read(&good).await.unwrap();
    issuer.answer(Answer::Body(key_set(&[&new])));
    service.until("the end of the token", || stolen.clone(), Result::is_err).await;
    assert_eq!(refusal(service.read(&stolen).await), UNAUTHENTICATED);
    service.read(&good).await.unwrap();
    // Another key under the same id does not bring it back.
    issuer.answer(Answer::Body(key_set(&[&Key::es256("old"), &new])));
    asked_again(&issuer, 3).await;
    assert_eq!(refusal(service.read(&stolen).await), UNAUTHENTICATED);
}

#[tokio::test]
async fn issuers_do_not_sign_for_each_other() {
    let (mine, yours) = (Key::es256("k"), Key::es256("k"));
    let [here, there] = [Issuer::with(&[&mine]).await, Issuer::with(&[&yours]).await];
    let options = there.options();
    let prefix = format!("{}=there:", there.name);
    let service =
        Guarded::by(&here, &["--token-issuer", &options[1], "--token-actor-prefix", &prefix]).await;
    service.read(&mine.sign(&here.claims("t"))).await.unwrap();
    service.read(&yours.sign(&there.claims("t"))).await.unwrap();
    assert_eq!(refusal(service.read(&mine.sign(&there.claims("t"))).await), UNAUTHENTICATED);
    assert_eq!(refusal(service.read(&yours.sign(&here.claims("t"))).await), UNAUTHENTICATED);
    // If one issuer does not answer, tokens of the other are still accepted.
    there.answer(Answer::Gone);
    service.read(&mine.sign(&here.claims("t"))).await.unwrap();
}

#[tokio::test]
async fn a_call_waits_for_keys_no_longer_than_its_deadline_and_not_with_too_many() {
    let key = Key::es256("k");
    let issuer = Issuer::start(Answer::Nothing).await;
    let service =
        Guarded::by(&issuer, &["--default-deadline", "500ms", "--jwks-max-waiting", "1"]).await;
    let token = key.sign(&issuer.claims("t"));
    let (first, second) = tokio::join!(service.read(&token), service.read(&token));
    let mut answers = [refusal(first), refusal(second)];
    answers.sort();
    assert_eq!(answers, ["DEADLINE_EXCEEDED", UNAVAILABLE]);
    issuer.answer(Answer::Body(key_set(&[&key])));
    service.until("a permit and keys", || token.clone(), Result::is_ok).await;
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let replace = |text: &str| {
        let aside = folder.path().join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, &file).unwrap();
    };
    replace(&key_set(&[&old]));
    let issuer = format!("i={}", file.display());
    let options = ["--token-issuer", &issuer, "--token-audience", AUDIENCE, "--jwks-floor", "20ms"];
    let service = Guarded::start(config(&options)).await;
    let token = |key: &Key| key.sign(&claims("i", "t"));
    let remembered = token(&old);
    service.read(&remembered).await.unwrap();
    for nonsense in ["", "{", r#"{"keys":[]}"#] {
        replace(nonsense);
        // A token with an unknown key fails with UNAVAILABLE once the file was read and had no
        // keys.
        let unknown = Key::es256("unknown");
        let tried = |answer: &Result<(), Status>| {
            answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable)
        };
        service.until("a look at the file", || token(&unknown), tried).await;
        service.read(&token(&old)).await.unwrap();
    }
    fs::remove_file(&file).unwrap();
    service.read(&token(&old)).await.unwrap();
    replace(&key_set(&[&new]));
    service.until("the new key", || token(&new), Result::is_ok).await;
    assert_eq!(refusal(service.read(&remembered).await), UNAUTHENTICATED);
}

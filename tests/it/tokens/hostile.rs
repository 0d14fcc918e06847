//! Tokens that someone made up, stole, changed or left lying about: refused whole, and all alike.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    refusal, refused,
    tokens::{Answer, Guarded, Issuer, Key, but, key_set, now},
};

/// What an attack sends: the values of `authorization`.
type Attack = (String, Vec<Vec<u8>>);

/// An issuer with an EC and an RSA key, and a service that accepts its tokens.
struct Scene {
    ec: Key,
    rsa: Key,
    issuer: Issuer,
    service: Guarded,
}

impl Scene {
    async fn new() -> Self {
        let (ec, rsa) = (Key::es256("ec"), Key::rs256("rsa"));
        let issuer = Issuer::with(&[&ec, &rsa]).await;
        let service = Guarded::by(&issuer, &[]).await;
        service.read(&ec.sign(&issuer.claims("t"))).await.unwrap();
        Self { ec, rsa, issuer, service }
    }

    fn claims(&self) -> Value {
        self.issuer.claims("t")
    }

    /// Makes every attack and says which were not refused as they should be.
    async fn not_refused(&self, attacks: Vec<Attack>) -> Vec<String> {
        let mut failed = Vec::new();
        for (name, values) in attacks {
            let headers: Vec<_> =
                values.iter().map(|value| ("authorization", value.as_slice())).collect();
            let answer = self.service.read_with(&headers).await;
            if !matches!(&answer, Err(status) if is_the_refusal(status)) {
                failed.push(format!("{name}: {answer:?}"));
            }
        }
        failed
    }
}

/// Whether it is the one answer that every bad token gets, which tells nothing about what is wrong
/// with it.
fn is_the_refusal(status: &Status) -> bool {
    let (_, details) = refused(status);
    status.code() == Code::Unauthenticated
        && status.message() == "a valid bearer token is required"
        && details
            .error_info()
            .is_some_and(|info| info.reason == "UNAUTHENTICATED" && info.metadata.is_empty())
        && details.bad_request().is_none()
        && details.debug_info().is_none()
}

fn attack(name: impl Into<String>, token: impl AsRef<[u8]>) -> Attack {
    (name.into(), vec![[b"Bearer ", token.as_ref()].concat()])
}

#[tokio::test]
async fn claims_that_are_missing_wrong_or_of_another_type() {
    let scene = Scene::new().await;
    let long = "x".repeat(201);
    let (past, future) = (now() - 3600, now() + 3600);
    let changes = [
        json!({"exp": past}),
        json!({"exp": now() - 31}),
        json!({"nbf": future}),
        json!({"nbf": now() + 60}),
        json!({"aud": "someone-else"}),
        json!({"aud": ["someone", "else"]}),
        json!({"aud": []}),
        json!({"aud": ""}),
        json!({"iss": "https://evil.example"}),
        json!({"iss": format!("{}/", scene.issuer.name)}),
        json!({"iss": scene.issuer.name.to_uppercase()}),
        json!({"iss": [scene.issuer.name]}),
        json!({"exp": null}),
        json!({"aud": null}),
        json!({"iss": null}),
        json!({"sub": null}),
        json!({"tenant_id": null}),
        json!({"sub": ""}),
        json!({"sub": long}),
        json!({"sub": "a\u{0}b"}),
        json!({"sub": "a\nb"}),
        json!({"tenant_id": ""}),
        json!({"tenant_id": "t'; DROP TABLE accounts; --"}),
        json!({"tenant_id": "t' OR '1'='1"}),
        json!({"tenant_id": "x".repeat(65)}),
        json!({"tenant_id": "a b"}),
        json!({"tenant_id": "tenänt"}),
        // Of another type.
        json!({"exp": future.to_string()}),
        json!({"exp": -1}),
        json!({"exp": true}),
        json!({"exp": [future]}),
        json!({"exp": {}}),
        json!({"nbf": "now"}),
        json!({"nbf": {}}),
        json!({"iss": 5}),
        json!({"aud": {"a": "customer-accounts"}}),
        json!({"aud": 5}),
        json!({"aud": [5]}),
        json!({"aud": true}),
        json!({"sub": 5}),
        json!({"sub": ["tester"]}),
        json!({"sub": {"a": "tester"}}),
        json!({"tenant_id": 5}),
        json!({"tenant_id": ["t"]}),
        json!({"tenant_id": {"a": "t"}}),
        json!({"tenant_id": true}),
        json!({"roles": 5}),
        json!({"roles": {"admin": true}}),
        json!({"roles": true}),
        json!({"roles": ["admin", 5]}),
        json!({"roles": [["admin"]]}),
        json!({"tenant_wide": "true"}),
        json!({"tenant_wide": 1}),
    ];
    let token = |changes: &Value| scene.ec.sign(&but(scene.claims(), changes.clone()));
    let attacks =
        changes.iter().map(|changes| attack(changes.to_string(), token(changes))).collect();
    assert_eq!(scene.not_refused(attacks).await, [""; 0]);
}

#[tokio::test]
async fn signatures_by_others_by_no_key_or_by_another_algorithm() {
    let scene = Scene::new().await;
    let claims = scene.claims();
    let header = |alg: &str, kid: &str| json!({"typ": "JWT", "alg": alg, "kid": kid});
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut attacks = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let message = format!("{}.{}", part(&header(alg, "ec")), part(&claims));
        attacks.push(attack(format!("alg {alg:?}, no signature"), format!("{message}.")));
        attacks.push(attack(format!("alg {alg:?}, two parts"), &message));
        attacks.push(attack(
            format!("alg {alg:?}, signed"),
            scene.ec.sign_as(&header(alg, "ec"), &claims),
        ));
    }
    for key in [&scene.ec, &scene.rsa] {
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(key.der())
        );
        let jwk = key.jwk();
        let parts = ["x", "n"]
            .map(|name| jwk[name].as_str().map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()));
        let secrets = [
            pem.clone().into_bytes(),
            pem.trim().into(),
            key.der(),
            jwk.to_string().into_bytes(),
            Vec::new(),
        ];
        for (number, secret) in secrets.into_iter().chain(parts.into_iter().flatten()).enumerate() {
            let forger = Key::secret(&key.kid, &secret);
            attacks.push(attack(
                format!("HS256 with the public key of {} ({number})", key.kid),
                forger.sign(&claims),
            ));
            let token = forger.sign_as(&json!({"alg": "HS256"}), &claims);
            attacks.push(attack(format!("the same without a key id ({number})"), token));
            let token = forger.sign_as(&header(key.alg, &key.kid), &claims);
            attacks.push(attack(format!("the same under the key's algorithm ({number})"), token));
        }
    }
    let foreign = [
        Key::es256("ec"),
        Key::es384("ec"),
        Key::ed25519("ec"),
        Key::rs256("rsa"),
        Key::rs256("rsa").into_ps256(),
    ];
    for key in &foreign {
        attacks
            .push(attack(format!("foreign {} key under a known id", key.alg), key.sign(&claims)));
        let own = key.sign_as(&json!({"alg": key.alg, "kid": key.kid, "jwk": key.jwk()}), &claims);
        attacks.push(attack(format!("foreign {} key that the token brings along", key.alg), own));
    }
    for (alg, kid) in [
        ("ES256", "rsa"),
        ("RS256", "ec"),
        ("PS256", "rsa"),
        ("RS512", "rsa"),
        ("ES384", "ec"),
        ("EdDSA", "ec"),
        ("HS512", "ec"),
    ] {
        for key in [&scene.ec, &scene.rsa] {
            attacks.push(attack(
                format!("{} key as {alg} of {kid}", key.kid),
                key.sign_as(&header(alg, kid), &claims),
            ));
        }
    }
    attacks
        .push(attack("unknown key id", foreign[0].sign_as(&header("ES256", "unknown"), &claims)));
    attacks.push(attack(
        "own key under an unknown id",
        scene.ec.sign_as(&header("ES256", "unknown"), &claims),
    ));
    attacks.push(attack(
        "no key id where there are two keys",
        scene.ec.sign_as(&json!({"alg": "ES256"}), &claims),
    ));
    attacks.push(attack(
        "key id of another type",
        scene.ec.sign_as(&json!({"alg": "ES256", "kid": 5}), &claims),
    ));
    let critical = json!({"alg": "ES256", "kid": "ec", "crit": ["exp"], "exp": 1});
    attacks.push(attack("critical extension", scene.ec.sign_as(&critical, &claims)));
    let logout = json!({"alg": "ES256", "kid": "ec", "typ": "logout+jwt"});
    attacks.push(attack("token of another kind", scene.ec.sign_as(&logout, &claims)));
    assert_eq!(scene.not_refused(attacks).await, [""; 0]);
}

#[tokio::test]
async fn tokens_that_were_tampered_with_and_headers_that_are_none() {
    let scene = Scene::new().await;
    let mut attacks = Vec::new();
    for key in [&scene.ec, &scene.rsa] {
        let good = key.sign(&scene.claims());
        scene.service.read(&good).await.unwrap();
        let parts: Vec<_> = good.split('.').collect();
        let [header, payload, signature] = [parts[0], parts[1], parts[2]];
        let other = URL_SAFE_NO_PAD.encode(scene.issuer.claims("other").to_string());
        attacks.push(attack("another payload", format!("{header}.{other}.{signature}")));
        attacks.push(attack(
            "another header",
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#)),
        ));
        attacks.push(attack("no signature", format!("{header}.{payload}.")));
        attacks.push(attack("two parts", format!("{header}.{payload}")));
        attacks.push(attack("four parts", format!("{good}.{signature}")));
        attacks.push(attack("only dots", ".."));
        attacks.push(attack("short signature", &good[..good.len() - 4]));
        attacks.push(attack("long signature", format!("{good}AAAA")));
        attacks.push(attack("padded", format!("{good}==")));
        attacks.push(attack(
            "signature of zeros",
            format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        ));
        for at in
            [header.len() / 2, header.len() + payload.len() / 2, good.len() - signature.len() / 2]
        {
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            attacks.push(attack(format!("one letter changed at {at}"), changed));
        }
        attacks.push(attack("twice in one", format!("{good}, Bearer {good}")));
        let bearer = format!("Bearer {good}").into_bytes();
        attacks.push(("two headers".into(), vec![bearer.clone(), bearer.clone()]));
        attacks.push(("two headers, one empty".into(), vec![Vec::new(), bearer]));
        for scheme in
            ["Basic ", "Token ", "DPoP ", "Bearer", "", "Bearer\t", "Bearer: ", "\"Bearer\" "]
        {
            attacks
                .push((format!("scheme {scheme:?}"), vec![format!("{scheme}{good}").into_bytes()]));
        }
    }
    for (name, value) in [
        ("no header", None),
        ("empty", Some(&b""[..])),
        ("no token", Some(b"Bearer")),
        ("an empty token", Some(b"Bearer ")),
        ("garbage", Some(b"Bearer %%%.%%%.%%%")),
        ("words", Some(b"Bearer let me in")),
        ("bytes beyond ASCII", Some(b"Bearer \xff\xfe\xfd.\xc3\x28.\xe2\x82")),
        ("UTF-8", Some("Bearer töken.töken.töken".as_bytes())),
        ("JSON", Some(br#"Bearer {"alg":"none"}"#)),
        ("JSON of the other form", Some(br#"Bearer {"payload":"e30","signatures":[]}"#)),
    ] {
        attacks.push((name.into(), value.map(Vec::from).into_iter().collect()));
    }
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(4000));
    attacks.push(attack("deep JSON as header", format!("{deep}.e30.AAAA")));
    attacks.push(attack(
        "deep JSON as payload",
        format!("{}.{deep}.AAAA", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"ec"}"#)),
    ));
    assert_eq!(scene.not_refused(attacks).await, [""; 0]);
}

#[tokio::test]
async fn a_secret_in_the_key_set_signs_nothing() {
    let (ec, secret) =
        (Key::es256("ec"), Key::secret("shared", b"0123456789abcdef0123456789abcdef"));
    let issuer = Issuer::start(Answer::Body(key_set(&[&ec, &secret]))).await;
    let service = Guarded::by(&issuer, &[]).await;
    service.read(&ec.sign(&issuer.claims("t"))).await.unwrap();
    assert!(is_the_refusal(&service.read(&secret.sign(&issuer.claims("t"))).await.unwrap_err()));
}

/// HTTP/2 would answer such headers itself, with 431 or by ending the connection for all calls on
/// it.
#[tokio::test]
async fn a_token_of_a_megabyte_is_refused_and_the_connection_goes_on() {
    let scene = Scene::new().await;
    let mut health = HealthClient::new(scene.service.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let good = scene.ec.sign(&scene.claims());
    let huge = scene.ec.sign(&but(scene.claims(), json!({"more": "x".repeat(750_000)})));
    assert!(huge.len() > 1_000_000 && huge.len() < 1_024 * 1_024);
    for token in [huge.clone(), "x".repeat(1_000_000), format!("{good}{}", "A".repeat(20_000))] {
        assert!(is_the_refusal(&scene.service.read(&token).await.unwrap_err()));
        scene.service.read(&good).await.unwrap();
    }
    // A large header other than the token is refused as a large request.
    let bearer = format!("Bearer {good}");
    let large = "x".repeat(1_000_000);
    let answer = scene
        .service
        .read_with(&[("authorization", bearer.as_bytes()), ("x-large", large.as_bytes())])
        .await;
    assert_eq!(refusal(answer), "REQUEST_TOO_LARGE");
    scene.service.read(&good).await.unwrap();
    // The watch was there before and still is: it is the same connection.
    let news = watch.message().now_or_never();
    assert!(news.is_none(), "{news:?}");
}

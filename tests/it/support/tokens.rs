//! An issuer of tokens: keys, tokens that say anything, a server of key sets, and a service that
//! accepts them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use customer_accounts::{config::Config, server};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};

use super::{certs, config, connect, raw, shared};

/// The audience of the tokens.
pub const AUDIENCE: &str = "customer-accounts";

/// A key that signs tokens.
pub struct Key {
    pub kid: String,
    pub alg: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Secret(Vec<u8>),
}

impl Key {
    pub fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.into(), alg: "ES256", pair: Pair::Ec(pair) }
    }

    pub fn es384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { kid: kid.into(), alg: "ES384", pair: Pair::Ec(pair) }
    }

    pub fn ed25519(kid: &str) -> Self {
        Self { kid: kid.into(), alg: "EdDSA", pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub fn rs256(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { kid: kid.into(), alg: "RS256", pair: Pair::Rsa(pair, &RSA_PKCS1_SHA256) }
    }

    /// A symmetric key, which no service must accept.
    pub fn secret(kid: &str, secret: &[u8]) -> Self {
        Self { kid: kid.into(), alg: "HS256", pair: Pair::Secret(secret.into()) }
    }

    /// This RSA key with an algorithm of RSASSA-PSS.
    pub fn into_ps256(self) -> Self {
        let Pair::Rsa(pair, _) = self.pair else { panic!("no RSA key") };
        Self { kid: self.kid, alg: "PS256", pair: Pair::Rsa(pair, &RSA_PSS_SHA256) }
    }

    /// The public part as JWK.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": format!("P-{}", &self.alg[2..]), "x": text(x), "y": text(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
            Pair::Rsa(pair, _) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": text(&n), "e": text(&e)})
            }
            Pair::Secret(secret) => json!({"kty": "oct", "k": text(secret)}),
        };
        jwk["alg"] = json!(self.alg);
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public part as it stands in a certificate.
    pub fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_der().unwrap(),
            Pair::Rsa(pair, _) => pair.public_key().as_der().unwrap(),
            Pair::Ed(_) | Pair::Secret(_) => panic!("not needed"),
        };
        der.as_ref().to_vec()
    }

    /// A token with this key's algorithm and id in its header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"typ": "JWT", "alg": self.alg, "kid": self.kid}), claims)
    }

    /// A token with any header.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = match &self.pair {
            Pair::Ec(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &SystemRandom::new(), message.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Pair::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A key set as JSON.
pub fn key_set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What a server of key sets does with a request.
#[derive(Clone)]
pub enum Answer {
    /// Answers with this body.
    Body(String),
    /// Answers with this status.
    Status(u16),
    /// Accepts the connection and closes it.
    Gone,
    /// Waits until another answer is set.
    Nothing,
}

/// An issuer of tokens whose keys are served by HTTP or HTTPS.
pub struct Issuer {
    /// The `iss` of its tokens.
    pub name: String,
    /// Where its keys are.
    url: String,
    answer: watch::Sender<Answer>,
    asked: Arc<Mutex<usize>>,
    _stop: DropGuard,
}

impl Issuer {
    /// Starts an issuer that answers so.
    pub async fn start(answer: Answer) -> Self {
        Self::serve(answer, None).await
    }

    /// One that has these keys, and shows this certificate.
    pub async fn with_tls(keys: &[&Key], certificate: &certs::Pair) -> Self {
        Self::serve(Answer::Body(key_set(keys)), Some(certificate.acceptor())).await
    }

    async fn serve(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked, stop) =
            (watch::Sender::new(answer), Arc::default(), CancellationToken::new());
        let (answers, count, stopped) = (answer.clone(), Arc::clone(&asked), stop.clone());
        let url = format!("{}://{address}/keys", if tls.is_some() { "https" } else { "http" });
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answers, count) = (tls.clone(), answers.subscribe(), Arc::clone(&count));
                tokio::spawn(async move {
                    match tls {
                        None => answer_one(stream, answers, count).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer_one(stream, answers, count).await;
                            }
                        }
                    }
                });
            }
        }));
        let name = format!("https://issuer.example/{}", address.port());
        Self { name, url, answer, asked, _stop: stop.drop_guard() }
    }

    /// One that has these keys.
    pub async fn with(keys: &[&Key]) -> Self {
        Self::start(Answer::Body(key_set(keys))).await
    }

    /// Sets what it answers from now on.
    pub fn answer(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    /// How often it was asked so far.
    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    /// The options of a service that accepts its tokens.
    pub fn options(&self) -> [String; 4] {
        let issuer = format!("{}={}", self.name, self.url);
        ["--token-issuer".into(), issuer, "--token-audience".into(), AUDIENCE.into()]
    }

    /// The claims of an administrator of a tenant.
    pub fn claims(&self, tenant: &str) -> Value {
        claims(&self.name, tenant)
    }
}

/// The claims of an administrator of a tenant.
pub fn claims(issuer: &str, tenant: &str) -> Value {
    json!({
        "iss": issuer, "aud": AUDIENCE, "sub": "tester", "iat": now(), "exp": now() + 3600, "tenant_id": tenant,
        "roles": ["admin"], "jti": super::unique(),
    })
}

/// The claims with some replaced, or taken out by null.
pub fn but(mut claims: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("no claims: {changes}") };
    for (name, value) in changes {
        let claims = claims.as_object_mut().unwrap();
        if value.is_null() {
            claims.remove(&name)
        } else {
            claims.insert(name, value)
        };
    }
    claims
}

async fn answer_one(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut answer: watch::Receiver<Answer>,
    asked: Arc<Mutex<usize>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    *asked.lock().unwrap() += 1;
    let Ok(answer) = answer
        .wait_for(|answer| !matches!(answer, Answer::Nothing))
        .await
        .map(|answer| answer.clone())
    else {
        return;
    };
    let (status, body) = match answer {
        Answer::Body(body) => (200, body),
        Answer::Status(status) => (status, key_set(&[&Key::es256("of-an-error")])),
        Answer::Gone | Answer::Nothing => return,
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nlocation: /elsewhere\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A service that accepts tokens, on the database of all tests. It ends when this is dropped.
pub struct Guarded {
    pub channel: Channel,
    _stop: DropGuard,
}

impl Guarded {
    /// Starts one that accepts the tokens of the issuer.
    pub async fn by(issuer: &Issuer, options: &[&str]) -> Self {
        let by_issuer = issuer.options();
        let by_issuer = by_issuer.iter().map(String::as_str);
        Self::start(config(&by_issuer.chain(options.iter().copied()).collect::<Vec<_>>())).await
    }

    pub async fn start(config: Config) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        shared().runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            server::serve(listener, shared().db.clone(), &config, stopped.cancelled_owned())
                .await
                .unwrap();
        });
        Self { channel: connect(address).await, _stop: stop.drop_guard() }
    }

    /// A call that reads, with these headers.
    pub async fn read_with(&self, headers: raw::Headers<'_>) -> Result<(), Status> {
        raw::call(&self.channel, "AccountTypeService/ListAccountTypes", headers, b"")
            .await
            .map(drop)
    }

    /// Makes a call that reads, with this token.
    pub async fn read(&self, token: &str) -> Result<(), Status> {
        self.read_with(&[("authorization", format!("Bearer {token}").as_bytes())]).await
    }

    /// Repeats a call that reads, with a new token each time, until the answer is as wanted.
    /// Returns the last token.
    #[track_caller]
    pub fn until(
        &self,
        what: &str,
        token: impl Fn() -> String,
        wanted: fn(&Result<(), Status>) -> bool,
    ) -> impl Future<Output = String> {
        super::eventually(Duration::from_secs(20), what, async move || {
            let token = token();
            wanted(&self.read(&token).await).then_some(token)
        })
    }
}

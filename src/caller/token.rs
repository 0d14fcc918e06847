//! Identity by token: `authorization: Bearer` with a JSON Web Token (RFC 7519) of a configured
//! issuer.
//!
//! Verified tokens are cached by their SHA-256, so that a caller pays for a signature check once in
//! five minutes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{
    AlgorithmFamily, Header, Validation, dangerous::insecure_decode_claims, decode, decode_header,
    errors::ErrorKind as Fault,
};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Identified, IdentityError,
    claims::ClaimNames,
    issuer::{Issuer, Missing},
    jwks::{Key, NoKey},
    options::TokenOptions,
    prefixes::Prefixes,
    refusals,
    rejection::{Rejection, Rejections, cause},
};
use crate::error::{Error, Result};

/// How long a verified token is cached at most.
const REMEMBERED: Duration = Duration::from_mins(5);
/// The accepted values of `typ`: RFC 7519, RFC 9068 and RFC 7515. Others belong to other protocols.
const TYPES: [&str; 4] = ["JWT", "at+jwt", "application/at+jwt", "JOSE"];

/// The configured issuers, and the cache of verified tokens.
#[derive(Debug)]
pub struct Tokens {
    issuers: HashMap<String, Arc<Issuer>>,
    /// The requirements of every token; algorithm and issuer are added for each.
    validation: Validation,
    claims: ClaimNames,
    prefixes: Prefixes,
    /// Verified tokens by their SHA-256.
    verified: Cache<[u8; 32], Arc<Verified>>,
    rejections: Rejections,
}

/// A verified token.
#[derive(Debug)]
struct Verified {
    who: Identified,
    issuer: Arc<Issuer>,
    key: Arc<Key>,
    /// Until when this may be used, in seconds since 1970.
    until: u64,
}

impl Tokens {
    /// Tokens as configured. Reads key sets in files.
    pub(super) fn new(options: &TokenOptions) -> Result<Self, IdentityError> {
        let mut issuers = HashMap::new();
        for configured in &options.issuers {
            let issuer = Issuer::new(configured, options).map_err(IdentityError::Keys)?;
            if issuers.insert(configured.issuer.clone(), Arc::new(issuer)).is_some() {
                return Err(IdentityError::Twice(configured.issuer.clone()));
            }
        }
        let prefixes = Prefixes::new(options)?;
        let mut validation = Validation::default();
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_audience(&options.audiences);
        validation.validate_nbf = true;
        validation.leeway = options.leeway.as_secs();
        let verified = Cache::new(options.cache_size);
        Ok(Self {
            issuers,
            validation,
            claims: ClaimNames::new(options),
            prefixes,
            verified,
            rejections: Rejections::default(),
        })
    }

    /// Keeps the keys of all issuers up to date, for ever.
    pub(super) async fn keep(&self) {
        join_all(self.issuers.values().map(|issuer| issuer.keep())).await;
    }

    /// Each issuer with the age of its keys, if they were ever fetched.
    pub(super) fn keys_ages(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.issuers.values().filter_map(|issuer| Some((&*issuer.name, issuer.keys_age()?)))
    }

    /// The caller that the request's token names.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Identified> {
        let token = bearer(headers).map_err(|cause| self.rejections.reject(&cause.into()))?;
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, token).as_ref());
        if let Some(verified) = self.verified.get(&fingerprint).filter(|verified| verified.holds())
        {
            return Ok(verified.who.clone());
        }
        let verified = self.verify(token).await?;
        let who = verified.who.clone();
        if verified.holds() {
            self.verified.insert(fingerprint, Arc::new(verified));
        }
        Ok(who)
    }

    /// The error for credentials that are too long to be looked at.
    pub(super) fn refuse_too_long(&self) -> Error {
        self.rejections.reject(&cause::TOO_LONG.into())
    }

    async fn verify(&self, token: &[u8]) -> Result<Verified> {
        let refuse = |rejection: Rejection<'_>| self.rejections.reject(&rejection);
        let header = decode_header(token).map_err(|_| refuse(cause::MALFORMED.into()))?;
        check_header(&header).map_err(|cause| refuse(cause.into()))?;
        let named: Named =
            insecure_decode_claims(token).map_err(|_| refuse(cause::CLAIMS.into()))?;
        let issuer = self.issuers.get(&named.iss).ok_or_else(|| refuse(cause::ISSUER.into()))?;
        let kid = header.kid.as_deref();
        let refused = |cause| refuse(Rejection { cause, issuer: Some(&issuer.name), kid });
        let key = issuer.key(kid, header.alg).await.map_err(|missing| match missing {
            Missing::Refused(NoKey::Unknown) => refused(cause::KEY),
            Missing::Refused(NoKey::Ambiguous) => refused(cause::NO_KEY_ID),
            Missing::Refused(NoKey::Algorithm) => refused(cause::ALGORITHM),
            Missing::Unavailable => refusals::issuer_unavailable(),
        })?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        validation.set_issuer(&[&issuer.name]);
        let claims = decode::<Map<String, Value>>(token, &key.decoding, &validation);
        let claims = claims.map_err(|error| refused(cause_of(error.kind())))?.claims;
        let until =
            claims.get("exp").and_then(Value::as_f64).ok_or_else(|| refused(cause::CLAIMS))?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(seconds(until)));
        let who =
            Identified { expires, ..self.claims.read(claims, &issuer.prefix).map_err(refused)? };
        if !self.prefixes.is_of(&who.actor, &issuer.prefix) {
            return Err(refused(cause::ANOTHERS_SUBJECT));
        }
        let until = seconds(until).min(now() + REMEMBERED.as_secs());
        Ok(Verified { who, issuer: Arc::clone(issuer), key, until })
    }
}

impl Verified {
    /// Whether the token would still be accepted: it has not expired, and its key may be used.
    fn holds(&self) -> bool {
        now() < self.until && self.key.is_live() && self.issuer.is_good()
    }
}

/// The claim that says whose keys to use. Nothing else is read before the signature is verified.
#[derive(Deserialize)]
struct Named {
    iss: String,
}

/// The token of the request's `authorization` header, of which there must be exactly one (RFC 6750,
/// section 2.1).
fn bearer(headers: &HeaderMap) -> Result<&[u8], &'static str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(cause::NO_TOKEN)?.as_bytes();
    if values.next().is_some() {
        return Err(cause::SEVERAL_TOKENS);
    }
    let (scheme, token) = value.split_at_checked(b"Bearer ".len()).ok_or(cause::NOT_BEARER)?;
    if scheme.eq_ignore_ascii_case(b"Bearer ") {
        Ok(token.trim_ascii())
    } else {
        Err(cause::NOT_BEARER)
    }
}

fn check_header(header: &Header) -> Result<(), &'static str> {
    // Such tokens are made with the key that verifies them, so a public key cannot verify them.
    if header.alg.family() == AlgorithmFamily::Hmac {
        return Err(cause::ALGORITHM);
    }
    // The service knows no extensions, so none may be critical (RFC 7515, section 4.1.11).
    if header.crit.is_some() {
        return Err(cause::CRITICAL);
    }
    let known = header
        .typ
        .as_ref()
        .is_none_or(|typ| TYPES.iter().any(|known| known.eq_ignore_ascii_case(typ)));
    if known { Ok(()) } else { Err(cause::TYPE) }
}

const fn cause_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::ExpiredSignature => cause::EXPIRED,
        Fault::ImmatureSignature => cause::NOT_YET,
        Fault::InvalidAudience => cause::AUDIENCE,
        Fault::InvalidIssuer => cause::ISSUER,
        Fault::InvalidSignature => cause::SIGNATURE,
        Fault::InvalidAlgorithm => cause::ALGORITHM,
        Fault::MissingRequiredClaim(_) | Fault::InvalidClaimFormat(_) | Fault::Json(_) => {
            cause::CLAIMS
        }
        _ => cause::MALFORMED,
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the time was verified to be after 1970; `as` saturates"
)]
const fn seconds(time: f64) -> u64 {
    time as u64
}

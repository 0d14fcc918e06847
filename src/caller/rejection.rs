//! Rejects tokens: the caller learns that its token is rejected, the operator learns why.
//!
//! Log lines and the metric have the cause, the issuer if it is configured, and the beginning of
//! the key id. They have nothing that a token says about a person.

use std::time::Duration;

use super::refusals;
use crate::{
    error::Error,
    telemetry::{Seldom, metrics::TOKENS_REFUSED},
};

/// Each cause is logged at most once in this time, with the number of times that it was not.
const PAUSE: Duration = Duration::from_secs(1);
/// Characters of a key id in the log.
const MAX_KID: usize = 16;

/// Why a token is rejected. The texts are values of the metric's attribute, so there is a fixed
/// small number of them.
pub(super) mod cause {
    pub const NO_TOKEN: &str = "no authorization header";
    pub const SEVERAL_TOKENS: &str = "more than one authorization header";
    pub const NOT_BEARER: &str = "the authorization header is no bearer token";
    pub const TOO_LONG: &str = "the authorization header is too long";
    pub const MALFORMED: &str = "not a signed JSON Web Token of a supported algorithm";
    pub const CRITICAL: &str = "the header has critical extensions";
    pub const TYPE: &str = "the header's typ is not that of an access token";
    pub const ISSUER: &str = "the issuer is not configured";
    pub const KEY: &str = "the issuer has no such key";
    pub const NO_KEY_ID: &str = "no key id, and the issuer has several keys";
    pub const ALGORITHM: &str = "the algorithm is not the key's";
    pub const SIGNATURE: &str = "the signature is wrong";
    pub const EXPIRED: &str = "expired";
    pub const NOT_YET: &str = "not yet valid";
    pub const AUDIENCE: &str = "for another audience";
    pub const CLAIMS: &str = "exp, iss, aud or sub is missing or of a wrong type";
    pub const SUBJECT: &str = "sub must have 1 to 200 characters with the issuer's prefix, all of \
                               which show, in normalization form C";
    pub const ANOTHERS_SUBJECT: &str = "sub begins with another issuer's prefix";
    pub const TENANT: &str = "the tenant claim is missing or no tenant id";
    pub const ROLES: &str = "the roles claim is neither a text nor an array of texts";
    pub const TENANT_WIDE: &str = "the tenant-wide claim is no boolean";
}

/// A rejected token.
#[derive(Debug)]
pub(super) struct Rejection<'a> {
    pub(super) cause: &'static str,
    /// The issuer, if it is configured.
    pub(super) issuer: Option<&'a str>,
    pub(super) kid: Option<&'a str>,
}

impl From<&'static str> for Rejection<'_> {
    fn from(cause: &'static str) -> Self {
        Self { cause, issuer: None, kid: None }
    }
}

/// Logs and counts rejections, each cause at a limited rate.
#[derive(Debug)]
pub(super) struct Rejections(Seldom);

impl Default for Rejections {
    fn default() -> Self {
        Self(Seldom::new(PAUSE))
    }
}

impl Rejections {
    /// Logs and counts a rejection. Returns the error for the caller, which is the same for every
    /// cause.
    pub(super) fn reject(&self, rejection: &Rejection<'_>) -> Error {
        let &Rejection { cause, issuer, kid } = rejection;
        TOKENS_REFUSED.count(cause);
        if let Some(unlogged) = self.0.due(cause) {
            let kid: Option<String> =
                kid.map(|kid| kid.chars().filter(char::is_ascii_graphic).take(MAX_KID).collect());
            tracing::info!(cause, issuer, kid, unlogged, "token refused");
        }
        refusals::unauthenticated("a valid bearer token is required")
    }
}

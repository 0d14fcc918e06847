//! Identifies the caller: tenant, actor, roles and reach.
//!
//! The guard (`crate::guard`) asks the configured [`Identity`] once for each call and puts the
//! [`Caller`] into the request's extensions, where the call finds it.

mod claims;
mod development;
pub mod development_key;
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a target fails by a panic")]
pub mod fuzzing;
mod issuer;
mod jwks;
pub mod mesh;
pub mod options;
mod prefixes;
mod refusals;
mod rejection;
mod source;
mod token;
pub mod workload;

use std::{fmt, sync::Arc, time::SystemTime};

use http::{HeaderMap, header::AUTHORIZATION, uri::Authority};
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tonic::Request;

use self::options::TokenOptions;
pub use self::token::Tokens;
pub use crate::roles::Roles;
use crate::{
    error::{Error, Result},
    policy::Policy,
    telemetry::metrics::ISSUER_KEYS_AGE,
    text,
};

/// The id of a tenant: 1 to 64 letters, digits, `_` or `-`. So it can be written into SQL text
/// without quoting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The id, if the text has the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        ((1..=64).contains(&text.len()) && text.chars().all(fits)).then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which part of the tenant a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The whole tenant.
    Tenant,
    /// The organizations that the caller's person belongs to, and everything below them.
    Person,
}

/// The caller of one call.
#[derive(Clone)]
pub struct Caller {
    /// The tenant whose data the call sees.
    pub tenant: TenantId,
    /// The actor, as the activity trail records it: the subject of the credentials, with the
    /// issuer's prefix.
    pub actor: Arc<str>,
    /// The roles of the actor.
    pub roles: Roles,
    /// Which part of the tenant the actor sees.
    pub reach: Reach,
    /// The module that the call belongs to: `customer_accounts`.
    pub module: &'static str,
    /// The call, as `accounts.v1.AccountService/GetAccount`.
    pub method: &'static str,
    /// The program that calls, if it is known; see [`workload`].
    pub workload: Option<Arc<str>>,
    /// The deadline of the call.
    pub deadline: Instant,
    /// When the credentials expire, if they do. An answer that goes on must end by then.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Caller {
    /// Leaves out the actor: it may name a person, and debug output may reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("tenant", &self.tenant.0)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Takes the caller from a request.
pub trait RequestExt {
    /// Removes the caller from the request's extensions, where the guard has put it.
    fn caller(&mut self) -> Result<Caller>;
}

impl<T> RequestExt for Request<T> {
    fn caller(&mut self) -> Result<Caller> {
        self.extensions_mut()
            .remove()
            .ok_or_else(|| Error::internal("a call was reached without passing the guard"))
    }
}

/// Longest actor in characters.
pub const MAX_ACTOR: usize = 200;

/// Whether a text may be an actor. The activity trail records actors and people are found by them
/// without any normalization, so no two actors may look alike; see [`text::is_exact`].
pub fn is_actor(actor: &str) -> bool {
    (1..=MAX_ACTOR).contains(&actor.chars().count())
        && !actor.chars().any(char::is_control)
        && text::is_exact(actor)
}

/// What the credentials of a request say.
#[derive(Debug, Clone)]
struct Identified {
    tenant: TenantId,
    actor: Arc<str>,
    roles: Roles,
    /// Whether the caller sees the whole tenant, whatever the roles are.
    tenant_wide: bool,
    /// When the credentials expire, if they do.
    expires: Option<SystemTime>,
}

/// How callers are identified.
#[derive(Debug, Clone)]
pub enum Identity {
    /// By headers of the request, without credentials. Only for services on loopback addresses.
    Development,
    /// By the request's token.
    Tokens(Arc<Tokens>),
}

/// Why the configuration of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Without an audience, tokens for other services would be accepted.
    #[error("--token-issuer needs --token-audience: the `aud` of tokens for this service")]
    NoAudience,
    /// Without an issuer, no token would be accepted.
    #[error(
        "--token-audience needs --token-issuer, such as \
         https://issuer.example=https://issuer.example/keys"
    )]
    NoIssuer,
    /// An issuer is given twice.
    #[error("--token-issuer: {0} is given more than once")]
    Twice(String),
    /// A key set cannot be used.
    #[error("--token-issuer: {0}")]
    Keys(String),
    /// A prefix is given for an unknown issuer.
    #[error("--token-actor-prefix: {0} is not the issuer of any --token-issuer")]
    NoSuchIssuer(String),
    /// An issuer has two prefixes.
    #[error("--token-actor-prefix: {0} is given more than once")]
    TwoPrefixes(String),
    /// Two issuers could name different people by the same actor.
    #[error(
        "--token-issuer: {0} and {1} may each have a subject of the same name, who would be the \
         same person here: give one of them a prefix, as --token-actor-prefix {1}=partner:, or \
         give both the same prefix if they name the same people"
    )]
    SameActors(String, String),
}

impl Identity {
    /// Identity as configured: by token if there is an issuer, otherwise development identity.
    pub fn configured(options: &TokenOptions) -> Result<Self, IdentityError> {
        match (options.issuers.is_empty(), options.audiences.is_empty()) {
            (true, true) => Ok(Self::Development),
            (true, false) => Err(IdentityError::NoIssuer),
            (false, true) => Err(IdentityError::NoAudience),
            (false, false) => Ok(Self::Tokens(Arc::new(Tokens::new(options)?))),
        }
    }

    /// Whether callers are identified without credentials.
    pub const fn believes_everybody(&self) -> bool {
        matches!(self, Self::Development)
    }

    /// Without credentials, refuses a request whose authority is not a name of this machine: it may
    /// come from a web page whose host name resolves to this machine (DNS rebinding).
    pub fn check_authority(&self, authority: Option<&Authority>) -> Result<()> {
        match (self, authority) {
            (Self::Development, Some(authority)) => development::check_authority(authority),
            _ => Ok(()),
        }
    }

    /// Keeps the issuers' keys up to date, for ever. Exports their ages.
    pub async fn keep(&self) {
        match self {
            Self::Development => std::future::pending().await,
            Self::Tokens(tokens) => {
                Self::observe(tokens);
                tokens.keep().await;
            }
        }
    }

    /// Exports the ages of the issuers' keys.
    fn observe(tokens: &Arc<Tokens>) {
        let tokens = Arc::clone(tokens);
        ISSUER_KEYS_AGE.observe_each(move |observe| {
            for (issuer, age) in tokens.keys_ages() {
                let issuer = KeyValue::new("issuer", issuer.to_owned());
                observe(age.as_secs_f64(), &[issuer]);
            }
        });
    }

    /// Identifies the caller of the call that `policy` belongs to. Fails if the credentials are not
    /// valid or the roles lack the permission. May wait for an issuer's keys.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        policy: &Policy,
        deadline: Instant,
    ) -> Result<Caller> {
        let Identified { tenant, actor, roles, tenant_wide, expires } = match self {
            Self::Development => development::identify(headers)?,
            Self::Tokens(tokens) => tokens.identify(headers).await?,
        };
        if !roles.any_of(policy.roles) {
            return Err(refusals::permission_denied(policy.permission));
        }
        let reach =
            if tenant_wide || roles.any_of(Roles::ADMIN) { Reach::Tenant } else { Reach::Person };
        Ok(Caller {
            tenant,
            actor,
            roles,
            reach,
            module: policy.module,
            method: policy.method,
            workload: None,
            deadline,
            expires,
        })
    }

    /// The error for a request whose headers are longer than `limit` together; nothing else of it
    /// is read.
    pub fn refuse_too_long(&self, headers: &HeaderMap, limit: usize) -> Error {
        match self {
            Self::Tokens(tokens)
                if headers.get_all(AUTHORIZATION).iter().any(|value| value.len() > limit / 2) =>
            {
                tokens.refuse_too_long()
            }
            _ => Error::RequestTooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_cannot_carry_sql() {
        for good in ["a", "Acme_1-x", &"x".repeat(64)] {
            assert!(TenantId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a'b", "a;b", "ä", "a\0", "a.b", &"x".repeat(65)] {
            assert!(TenantId::parse(bad).is_none(), "{bad:?}");
        }
    }
}

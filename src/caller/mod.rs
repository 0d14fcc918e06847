//! Who is calling: the tenant, the actor and what they may do.
//!
//! The guard (`crate::guard`) asks the configured [`Identity`] once for each call and puts the
//! [`Caller`] into the request's extensions; calls take it from there.

mod claims;
mod development;
pub mod development_key;
mod issuer;
mod jwks;
pub mod mesh;
mod prefixes;
mod refusals;
mod rejection;
mod source;
mod token;
pub mod workload;

use std::{fmt, sync::Arc, time::SystemTime};

use http::{HeaderMap, header::AUTHORIZATION, uri::Authority};
use tokio::time::Instant;
use tonic::Request;

pub use self::token::Tokens;
use crate::{
    config::Config,
    error::{Error, Result},
    policy::Policy,
    text,
};

/// A tenant's id: 1 to 64 letters, digits, `_` or `-`. Nothing else can be one, so it may stand in
/// SQL text as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks the form of an id.
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

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// Reads.
    pub const VIEWER: Self = Self(1);
    /// Reads and writes.
    pub const EDITOR: Self = Self(2);
    /// Reads, writes, deletes and configures.
    pub const ADMIN: Self = Self(4);

    /// The role of this name; an unknown name is no role.
    pub fn named(name: &str) -> Self {
        match name {
            "viewer" => Self::VIEWER,
            "editor" => Self::EDITOR,
            "admin" => Self::ADMIN,
            _ => Self::default(),
        }
    }

    /// The roles that have a permission, by its verb: `accounts.read`, `.write`, `.delete` or
    /// `.configure`.
    pub fn having(permission: &str) -> Option<Self> {
        match permission.rsplit_once('.')?.1 {
            "read" => Some(Self::VIEWER.and(Self::EDITOR).and(Self::ADMIN)),
            "write" => Some(Self::EDITOR.and(Self::ADMIN)),
            "delete" | "configure" => Some(Self::ADMIN),
            _ => None,
        }
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have a role in common.
    pub const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// How far a caller sees into the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All of it.
    Tenant,
    /// The organizations that the caller's person belongs to, and everything below them.
    Person,
}

/// The caller of one call.
#[derive(Clone)]
pub struct Caller {
    /// The tenant whose data the call sees.
    pub tenant: TenantId,
    /// Who acts: the subject of the identity, as the activity trail records it.
    pub actor: Arc<str>,
    /// What the actor may do.
    pub roles: Roles,
    /// How far they see.
    pub reach: Reach,
    /// The module that the call belongs to: `customer_accounts`.
    pub module: &'static str,
    /// The call, as `accounts.v1.AccountService/GetAccount`.
    pub method: &'static str,
    /// The program that calls, if it is known; see [`workload`].
    pub workload: Option<Arc<str>>,
    /// When the call must have ended.
    pub deadline: Instant,
    /// When the credentials expire, if they do: an answer that goes on must end by then.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Caller {
    /// Without the actor: it may name a person, and debug output may reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("tenant", &self.tenant.0)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The caller of a request, which the guard has put there.
pub trait RequestExt {
    /// Takes the caller out of the request.
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

/// Whether a text may name an actor. The activity trail records it as it is, and people are found
/// by it as it is, so no two actors may look alike: see [`text::is_exact`].
pub fn is_actor(actor: &str) -> bool {
    (1..=MAX_ACTOR).contains(&actor.chars().count())
        && !actor.chars().any(char::is_control)
        && text::is_exact(actor)
}

/// Whom the credentials of a request name.
#[derive(Debug, Clone)]
struct Identified {
    tenant: TenantId,
    actor: Arc<str>,
    roles: Roles,
    /// Whether the reach is the whole tenant, whatever the roles.
    tenant_wide: bool,
    /// When the credentials expire, if they do.
    expires: Option<SystemTime>,
}

/// How the service finds out who is calling.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Whoever the request says: on loopback addresses only.
    Development,
    /// Whom the request's token names.
    Tokens(Arc<Tokens>),
}

/// Why nobody could be identified as configured.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Tokens for anybody would be accepted.
    #[error("--token-issuer needs --token-audience: what tokens for this service carry as `aud`")]
    NoAudience,
    /// Tokens of nobody would be accepted.
    #[error(
        "--token-audience needs --token-issuer, as https://issuer.example=https://issuer.example/keys"
    )]
    NoIssuer,
    /// An issuer has two key sets.
    #[error("--token-issuer: {0} is given more than once")]
    Twice(String),
    /// A key set cannot be used.
    #[error("--token-issuer: {0}")]
    Keys(String),
    /// A prefix for nobody.
    #[error("--token-actor-prefix: {0} is not the issuer of any --token-issuer")]
    NoSuchIssuer(String),
    /// An issuer has two prefixes.
    #[error("--token-actor-prefix: {0} is given more than once")]
    TwoPrefixes(String),
    /// Two issuers could name different people alike.
    #[error(
        "--token-issuer: {0} and {1} may each have a subject of the same name, who would be the same person here: give one of \
         them a prefix, as --token-actor-prefix {1}=partner:, or give both the same prefix if they name the same people"
    )]
    SameActors(String, String),
}

impl Identity {
    /// Identity as configured: tokens with an issuer, development without.
    pub fn configured(config: &Config) -> Result<Self, IdentityError> {
        match (config.tokens.issuers.is_empty(), config.tokens.audiences.is_empty()) {
            (true, true) => Ok(Self::Development),
            (true, false) => Err(IdentityError::NoIssuer),
            (false, true) => Err(IdentityError::NoAudience),
            (false, false) => Ok(Self::Tokens(Arc::new(Tokens::new(&config.tokens)?))),
        }
    }

    /// Whether a caller is believed without credentials.
    pub const fn believes_everybody(&self) -> bool {
        matches!(self, Self::Development)
    }

    /// Refuses a request that came by a name which is not this machine's, where callers are
    /// believed without credentials: it may come from a web page whose own name was made to point
    /// here (DNS rebinding).
    pub fn check_authority(&self, authority: Option<&Authority>) -> Result<()> {
        match (self, authority) {
            (Self::Development, Some(authority)) => development::check_authority(authority),
            _ => Ok(()),
        }
    }

    /// Keeps ready what identity needs, for ever.
    pub async fn keep(&self) {
        match self {
            Self::Development => std::future::pending().await,
            Self::Tokens(tokens) => tokens.keep().await,
        }
    }

    /// The caller of the call that `policy` belongs to, or why there is none. May wait for an
    /// issuer's keys.
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

    /// What the caller of a request is told whose headers are longer than `limit` together, of
    /// which nothing more is read.
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

    #[test]
    fn roles_follow_the_verb_of_the_permission() {
        let may = |role: Roles, permission| role.any_of(Roles::having(permission).unwrap());
        assert!(may(Roles::VIEWER, "accounts.read") && !may(Roles::VIEWER, "accounts.write"));
        assert!(may(Roles::EDITOR, "accounts.write") && !may(Roles::EDITOR, "accounts.delete"));
        assert!(
            may(Roles::ADMIN, "accounts.delete") && may(Roles::ADMIN, "account_types.configure")
        );
        assert_eq!(Roles::having("accounts.frobnicate"), None);
        assert_eq!(Roles::named("root"), Roles::default());
    }
}

//! Reads tenant, actor, roles and reach from the claims of a verified token.

use serde_json::{Map, Value};

use super::{Identified, Roles, TenantId, is_actor, options::TokenOptions, rejection::cause};

/// The names of the claims with tenant, roles and reach.
#[derive(Debug)]
pub(super) struct ClaimNames {
    tenant: String,
    roles: String,
    tenant_wide: String,
}

impl ClaimNames {
    pub(super) fn new(options: &TokenOptions) -> Self {
        Self {
            tenant: options.tenant_claim.clone(),
            roles: options.roles_claim.clone(),
            tenant_wide: options.tenant_wide_claim.clone(),
        }
    }

    /// The caller that the claims describe, or the cause why they describe none. Unknown roles are
    /// ignored. The actor is the issuer's prefix followed by the subject.
    pub(super) fn read(
        &self,
        claims: Map<String, Value>,
        prefix: &str,
    ) -> Result<Identified, &'static str> {
        let claims = Value::Object(claims);
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .filter(|subject| is_actor(subject))
            .ok_or(cause::SUBJECT)?;
        let actor = [prefix, subject].concat();
        if !is_actor(&actor) {
            return Err(cause::SUBJECT);
        }
        let tenant = find(&claims, &self.tenant)
            .and_then(Value::as_str)
            .and_then(TenantId::parse)
            .ok_or(cause::TENANT)?;
        let roles = match find(&claims, &self.roles) {
            None => Roles::default(),
            Some(Value::String(names)) => {
                names.split(' ').fold(Roles::default(), |roles, name| roles.and(Roles::named(name)))
            }
            Some(Value::Array(names)) => {
                names.iter().try_fold(Roles::default(), |roles, name| {
                    name.as_str().map(|name| roles.and(Roles::named(name))).ok_or(cause::ROLES)
                })?
            }
            Some(_) => return Err(cause::ROLES),
        };
        let tenant_wide = match find(&claims, &self.tenant_wide) {
            None => false,
            Some(value) => value.as_bool().ok_or(cause::TENANT_WIDE)?,
        };
        Ok(Identified { tenant, actor: actor.into(), roles, tenant_wide, expires: None })
    }
}

/// A claim by its name, or by a JSON pointer (RFC 6901). A claim that is null counts as absent.
fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    let found = if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) };
    found.filter(|value| !value.is_null())
}

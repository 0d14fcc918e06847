//! Development identity: no credentials; the request itself says who is calling.

use http::HeaderMap;

use super::{Roles, TenantId};
use crate::error::{Error, Result};

const DEFAULT_TENANT: &str = "demo";
const DEFAULT_ACTOR: &str = "developer";
const DEFAULT_ROLES: &str = "admin";
/// Longest actor in characters.
const MAX_ACTOR: usize = 200;

/// Tenant from `x-tenant-id`, actor from `x-actor`, roles from `x-roles` (separated by commas), each with a default.
pub fn identify(headers: &HeaderMap) -> Result<(TenantId, String, Roles)> {
    let tenant = header(headers, "x-tenant-id", DEFAULT_TENANT)?;
    let tenant = TenantId::parse(tenant)
        .ok_or_else(|| Error::Unauthenticated("x-tenant-id must be 1 to 64 letters, digits, '_' or '-'".into()))?;
    let actor = header(headers, "x-actor", DEFAULT_ACTOR)?;
    if actor.is_empty() || actor.chars().count() > MAX_ACTOR {
        return Err(Error::Unauthenticated(format!("x-actor must have 1 to {MAX_ACTOR} characters")));
    }
    let roles = header(headers, "x-roles", DEFAULT_ROLES)?;
    let roles = roles.split(',').fold(Roles::default(), |roles, name| roles.and(Roles::named(name.trim())));
    Ok((tenant, actor.to_owned(), roles))
}

fn header<'a>(headers: &'a HeaderMap, name: &str, default: &'a str) -> Result<&'a str> {
    match headers.get(name) {
        None => Ok(default),
        Some(value) => value.to_str().map_err(|_| Error::Unauthenticated(format!("{name} must be visible ASCII"))),
    }
}

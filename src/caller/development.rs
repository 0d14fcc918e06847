//! Development identity: headers of the request name the caller, without credentials.

use std::net::IpAddr;

use http::{HeaderMap, uri::Authority};

use super::{Identified, MAX_ACTOR, Roles, TenantId, is_actor, refusals};
use crate::error::Result;

const DEFAULT_TENANT: &str = "demo";
const DEFAULT_ACTOR: &str = "developer";
const DEFAULT_ROLES: &str = "admin";
const DEFAULT_TENANT_WIDE: &str = "true";

/// Reads the tenant from `x-tenant-id`, the actor from `x-actor`, the roles from `x-roles`
/// (separated by commas), and whether the reach is the whole tenant from `x-tenant-wide`. Each has
/// a default.
pub fn identify(headers: &HeaderMap) -> Result<Identified> {
    let tenant = header(headers, "x-tenant-id", DEFAULT_TENANT)?;
    let tenant = TenantId::parse(tenant).ok_or_else(|| {
        refusals::unauthenticated("x-tenant-id must be 1 to 64 letters, digits, '_' or '-'")
    })?;
    let actor = header(headers, "x-actor", DEFAULT_ACTOR)?;
    if !is_actor(actor) {
        return Err(refusals::unauthenticated(format!(
            "x-actor must have 1 to {MAX_ACTOR} characters"
        )));
    }
    let roles = header(headers, "x-roles", DEFAULT_ROLES)?;
    let roles =
        roles.split(',').fold(Roles::default(), |roles, name| roles.and(Roles::named(name.trim())));
    let tenant_wide = match header(headers, "x-tenant-wide", DEFAULT_TENANT_WIDE)? {
        "true" => true,
        "false" => false,
        _ => return Err(refusals::unauthenticated("x-tenant-wide must be true or false")),
    };
    Ok(Identified { tenant, actor: actor.into(), roles, tenant_wide, expires: None })
}

/// Fails unless the request names this machine by a loopback address or as `localhost`.
pub fn check_authority(authority: &Authority) -> Result<()> {
    let host = authority.host();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    let is_this_machine =
        address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback());
    if is_this_machine {
        return Ok(());
    }
    let why = "without credentials configured the service answers to localhost and loopback \
               addresses only, not to other names";
    Err(refusals::unauthenticated(why))
}

fn header<'a>(headers: &'a HeaderMap, name: &str, default: &'a str) -> Result<&'a str> {
    match headers.get(name) {
        None => Ok(default),
        Some(value) => value
            .to_str()
            .map_err(|_| refusals::unauthenticated(format!("{name} must be visible ASCII"))),
    }
}

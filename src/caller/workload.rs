//! Identifies the calling program, its workload: by its certificate, or by a header of the mesh's
//! proxy.
//!
//! A workload is not a user: tenant, actor and roles come from [`Identity`](super::Identity). Its
//! name is a SPIFFE ID or a DNS name, and never the subject's common name, because authorities
//! verify that in different ways.

use std::sync::Arc;

use http::HeaderMap;

use super::{mesh::MeshHeader, refusals};
use crate::{error::Result, telemetry};

/// Longest SPIFFE ID and longest trust domain in bytes (SPIFFE ID 2.3).
const MAX_SPIFFE: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;
/// Longest DNS name in bytes (RFC 1035, without the final dot).
const MAX_DNS: usize = 253;
const SPIFFE: &str = "spiffe://";

/// The workload of a certificate with these names: its SPIFFE ID, or else its first DNS name. A
/// certificate with a SPIFFE ID must have no other URI (X.509-SVID 2); one that has names no
/// workload.
pub fn named(uris: &[&str], dns: &[&str]) -> Option<Arc<str>> {
    let is_spiffe = |uri: &&str| {
        uri.get(..SPIFFE.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SPIFFE))
    };
    match uris {
        [only] if is_spiffe(only) => spiffe_id(only),
        uris if uris.iter().any(is_spiffe) => None,
        _ => dns.iter().next().and_then(|name| dns_name(name)),
    }
}

/// Parses a SPIFFE ID or a DNS name.
pub(super) fn either(text: &str) -> Option<Arc<str>> {
    spiffe_id(text).or_else(|| dns_name(text))
}

/// Parses `spiffe://trust-domain/path` (SPIFFE ID 2). The result needs no escaping in a log line.
fn spiffe_id(text: &str) -> Option<Arc<str>> {
    let (domain, path) = text.strip_prefix(SPIFFE)?.split_once('/')?;
    let in_domain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let within = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let is_segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(within);
    let fits = text.len() <= MAX_SPIFFE
        && (1..=MAX_TRUST_DOMAIN).contains(&domain.len())
        && domain.bytes().all(in_domain)
        && path.split('/').all(is_segment);
    fits.then(|| text.into())
}

/// Parses a DNS name, and makes it lower case. A wildcard is refused: it names many workloads.
fn dns_name(text: &str) -> Option<Arc<str>> {
    let within = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(within);
    (text.len() <= MAX_DNS && text.split('.').all(is_label))
        .then(|| text.to_ascii_lowercase().into())
}

/// A list of workloads; if it is empty, none were listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workloads(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This workload.
    Exactly(Arc<str>),
    /// Every SPIFFE ID that begins with this, which ends with a slash.
    Below(String),
}

impl Workloads {
    /// Parses names separated by commas; `spiffe://trust-domain/path/*` stands for every SPIFFE ID
    /// below that path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(Pattern::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether none were listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn include(&self, workload: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exactly(name) => **name == *workload,
            Pattern::Below(prefix) => workload.starts_with(prefix),
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let pattern = match text.strip_suffix('*') {
            // With a segment in place of the star it must be a SPIFFE ID.
            Some(prefix) => spiffe_id(&format!("{prefix}x"))
                .filter(|_| prefix.ends_with('/'))
                .map(|_| Self::Below(prefix.into())),
            None => either(text).map(Self::Exactly),
        };
        let rule = "a workload is a SPIFFE ID, such as spiffe://example.org/ns/shop/sa/portal, one \
                    that ends with /*, or a DNS name";
        pattern.ok_or_else(|| format!("{text:?}: {rule}"))
    }
}

/// How workloads are identified, and which may call.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Workloads that may call; any if none are listed.
    pub allowed: Workloads,
    /// The header by which the mesh's proxy names the workload, if one is trusted.
    pub mesh: MeshHeader,
    /// Workloads whose `mesh` header is trusted; any peer's if none are listed.
    pub proxies: Workloads,
}

impl Admission {
    /// The workload that calls over a connection of `peer`. Fails if it may not call. With a mesh
    /// the peer is the proxy, and its header names the workload.
    pub fn admit(&self, headers: &HeaderMap, peer: Option<&Arc<str>>) -> Result<Option<Arc<str>>> {
        if !self.mesh.is_on() {
            return check(&self.allowed, peer);
        }
        check(&self.proxies, peer)?;
        check(&self.allowed, Some(&self.mesh.workload(headers)?))
    }
}

fn check(allowed: &Workloads, workload: Option<&Arc<str>>) -> Result<Option<Arc<str>>> {
    if let Some(workload) = workload {
        telemetry::set_workload(workload);
    }
    if allowed.is_empty() || workload.is_some_and(|workload| allowed.include(workload)) {
        return Ok(workload.cloned());
    }
    Err(refusals::workload_not_allowed(workload.map(|workload| &**workload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_at_most_one_workload() {
        let id = "spiffe://example.org/ns/shop/sa/portal";
        for (uris, dns, workload) in [
            (&[id][..], &["portal.shop"][..], Some(id)),
            (&[], &["Portal.Shop", "other"], Some("portal.shop")),
            (&["https://example.org/"], &["portal"], Some("portal")),
            (&[id, id], &["portal"], None),
            (&[id, "https://example.org/"], &["portal"], None),
            (&["https://example.org/", id], &["portal"], None),
            (&["SPIFFE://example.org/portal"], &["portal"], None),
            (&["spiffe://example.org"], &["portal"], None),
            (&[], &["*.shop", "portal"], None),
            (&[], &[], None),
        ] {
            assert_eq!(named(uris, dns).as_deref(), workload, "{uris:?} {dns:?}");
        }
    }

    #[test]
    fn names_are_checked() {
        for bad in [
            "spiffe://",
            "spiffe:///a",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/../a",
            "spiffe://example.org/./a",
            "spiffe://Example.org/a",
            "spiffe://example.org:80/a",
            "spiffe://u@example.org/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/a%2fb",
            "spiffe://example.org/a b",
            "spiffe://example.org/a\"b",
            "spiffe://example.org/\u{e4}",
            "",
            ".",
            "a..b",
            "a.b.",
            "a b",
            "a/b",
            "*",
            "a\n",
            &format!("spiffe://example.org/{}", "a".repeat(2028)),
            &["a"; 128].join("."),
        ] {
            assert_eq!(either(bad), None, "{bad:?}");
        }
        assert!(either(&format!("spiffe://example.org/{}", "a".repeat(2027))).is_some());
    }

    #[test]
    fn lists_of_workloads() {
        let list = Workloads::parse(
            " spiffe://example.org/ns/shop/*, spiffe://example.org/crm ,Billing.internal,",
        )
        .unwrap();
        for inside in [
            "spiffe://example.org/ns/shop/sa/portal",
            "spiffe://example.org/crm",
            "billing.internal",
        ] {
            assert!(list.include(inside), "{inside}");
        }
        for outside in [
            "spiffe://example.org/ns/shop",
            "spiffe://example.org/ns/shopping/sa/portal",
            "spiffe://example.org/crm/x",
            "spiffe://example.org.evil/ns/shop/sa/portal",
            "x.billing.internal",
            "billing.internal.evil",
        ] {
            assert!(!list.include(outside), "{outside}");
        }
        assert!(Workloads::parse("").unwrap().is_empty());
        for bad in [
            "*",
            "spiffe://*",
            "spiffe://example.org*",
            "spiffe://example.org/a*",
            "billing.*",
            "*.internal",
            "a b",
        ] {
            assert!(Workloads::parse(bad).is_err(), "{bad:?}");
        }
    }
}

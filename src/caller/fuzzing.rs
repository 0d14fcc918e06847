//! Fuzzing of what names a caller; see `crate::fuzzing`.

use clap::Parser;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::{Map, Value};

use super::{
    TenantId, Tokens, claims::ClaimNames, is_actor, mesh::MeshHeader, options::TokenOptions,
    rejection::cause,
};

/// What Envoy writes behind the header that a client has sent, and the workload that it names.
const FROM_ENVOY: &str = "By=spiffe://x/y;Hash=0a;Subject=\"CN=b,O=\\\"c\\\"\";URI=spiffe://a/b";
const WORKLOAD: &str = "spiffe://a/b";
/// The same of Linkerd.
const FROM_LINKERD: &str = "crm.shop.serviceaccount.identity.linkerd.cluster.local";

/// A header that a client has sent. With what the proxy writes behind it, it names the proxy's
/// workload, or none.
pub fn certificate_header(data: &[u8]) {
    let Ok(forged) = HeaderValue::from_bytes(data) else { return };
    for (name, written, workload) in [
        ("x-forwarded-client-cert", FROM_ENVOY, WORKLOAD),
        ("l5d-client-id", FROM_LINKERD, FROM_LINKERD),
    ] {
        let header = MeshHeader::parse(name).expect("the name of a header");
        let named = |values: &[HeaderValue]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name, value.clone());
            }
            header.workload(&headers)
        };
        let _ = named(std::slice::from_ref(&forged));
        let proxys = HeaderValue::from_static(written);
        let apart = named(&[forged.clone(), proxys]).expect("the last header is the proxy's");
        assert_eq!(&*apart, workload);
        let joined = [data, b",", written.as_bytes()].concat();
        let joined = HeaderValue::from_bytes(&joined).expect("two values of headers");
        if let Ok(joined) = named(&[joined]) {
            assert_eq!(&*joined, workload);
        }
    }
}

/// The header `authorization`. Without a key nobody is known by it.
pub fn token(data: &[u8]) {
    let tokens = Tokens::new(&options()).expect("no issuer");
    for value in [data.to_vec(), [b"Bearer ", data].concat()] {
        let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let identified = tokens.identify(&headers).now_or_never().expect("waits for no key");
        assert!(identified.is_err());
    }
}

/// The claims of a token whose signature is good. Tenant and actor of whom they name have the form
/// that the rest of the service relies on.
pub fn token_claims(data: &[u8]) {
    const PREFIX: &str = "idp:";
    let Ok(claims) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    let options = TokenOptions { roles_claim: "/realm_access/roles".into(), ..options() };
    for names in [ClaimNames::new(&options), ClaimNames::new(&self::options())] {
        match names.read(claims.clone(), PREFIX) {
            Ok(who) => {
                assert_eq!(TenantId::parse(who.tenant.as_str()), Some(who.tenant.clone()));
                assert_eq!(claims.get("tenant_id"), Some(&who.tenant.as_str().into()));
                assert!(is_actor(&who.actor), "{:?}", who.actor);
                let subject = who.actor.strip_prefix(PREFIX).map(Value::from);
                assert_eq!(claims.get("sub"), subject.as_ref());
            }
            Err(why) => assert!(
                [cause::SUBJECT, cause::TENANT, cause::ROLES, cause::TENANT_WIDE].contains(&why),
                "{why}"
            ),
        }
    }
}

/// The defaults.
fn options() -> TokenOptions {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        tokens: TokenOptions,
    }
    Only::parse_from([""]).tokens
}

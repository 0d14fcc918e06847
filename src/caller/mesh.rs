//! The header by which the proxy of a service mesh names the workload whose certificate it has
//! verified.
//!
//! Off by default, because anybody can send a header: it can be trusted only if every request comes
//! through the proxy. The proxy appends its element to what the request already had. So the last
//! element is the proxy's, and only the last one counts.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName};

use super::{refusals, workload};
use crate::error::Result;

/// Linkerd's header, which has nothing but a name.
const LINKERD: &str = "l5d-client-id";

/// The trusted header, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshHeader(Option<HeaderName>);

impl MeshHeader {
    /// The header with this name; no header if the name is empty.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "" => Ok(Self(None)),
            name => name
                .parse()
                .map(|name| Self(Some(name)))
                .map_err(|_| "the name of an HTTP header".to_owned()),
        }
    }

    /// Whether a header is trusted.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The workload that the header names. Fails without the header: then the request has not come
    /// through the proxy.
    pub(super) fn workload(&self, headers: &HeaderMap) -> Result<Arc<str>> {
        let refused = |fault| refusals::unauthenticated(format!("the proxy's header {fault}"));
        let Some(name) = &self.0 else { return Err(refused("is not trusted")) };
        // A header that is sent several times means the same as one header with a list.
        let value =
            headers.get_all(name).iter().next_back().ok_or_else(|| refused("is missing"))?;
        let value = value.to_str().map_err(|_| refused("is malformed"))?;
        if name.as_str() == LINKERD {
            let last = value.rsplit(',').next().unwrap_or_default();
            return workload::either(last.trim()).ok_or_else(|| refused("names no workload"));
        }
        let element = last_element(value).ok_or_else(|| refused("is malformed"))?;
        element.workload().ok_or_else(|| refused("names no workload"))
    }
}

/// One element of an `x-forwarded-client-cert`: what a proxy says about one certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl Element<'_> {
    fn workload(&self) -> Option<Arc<str>> {
        let all = |wanted: &str| -> Vec<&str> {
            let pairs = self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(wanted));
            pairs.map(|(_, value)| &**value).collect()
        };
        workload::named(&all("URI"), &all("DNS"))
    }
}

/// The last element of a header in the form that Envoy writes: elements separated by commas, pairs
/// separated by semicolons, values quoted or not; separators inside quotes do not separate. `None`
/// if any part has another form, because then it is not certain where the last element begins.
fn last_element(header: &str) -> Option<Element<'_>> {
    let (mut element, mut rest) = (Element::default(), header);
    loop {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_start_matches([' ', '\t']);
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (value, after) = take_value(after)?;
        element.0.push((key, value));
        let after = after.trim_start_matches([' ', '\t']);
        match after.chars().next() {
            None => return Some(element),
            Some(';') => {}
            Some(',') => element.0.clear(),
            Some(_) => return None,
        }
        rest = after.get(1..)?;
    }
}

/// The value at the beginning of `text`, and the rest.
fn take_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_at(text.find([',', ';']).unwrap_or(text.len()));
        return (!value.contains('"')).then(|| (value.trim_end_matches([' ', '\t']).into(), after));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            // Subjects have the backslashes of RFC 2253, so a backslash may also precede other
            // characters than a quote.
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return Some((value.into(), quoted.get(at + 1..)?)),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, values: &[&str]) -> Result<Arc<str>, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        MeshHeader::parse(name).unwrap().workload(&headers).map_err(|error| error.to_string())
    }

    #[test]
    fn the_last_element_names_the_workload() {
        const ISTIO: &str = "By=spiffe://cluster.local/ns/a/sa/accounts;Hash=0a1b;Subject=\"\";\
                             URI=spiffe://cluster.local/ns/b/sa/crm";
        for (values, name) in [
            (&["URI=spiffe://a/b"][..], "spiffe://a/b"),
            (&[ISTIO], "spiffe://cluster.local/ns/b/sa/crm"),
            (&["uri=spiffe://a/b"], "spiffe://a/b"),
            (&["URI=\"spiffe://a/b\""], "spiffe://a/b"),
            (&["DNS=Crm.internal;DNS=other"], "crm.internal"),
            (&["DNS=crm;URI=spiffe://a/b"], "spiffe://a/b"),
            (&["DNS=crm;URI=https://a/b"], "crm"),
            (&["By=spiffe://x/y;URI=spiffe://a/b"], "spiffe://a/b"),
            // The client's own elements come first.
            (&["URI=spiffe://a/admin,URI=spiffe://a/b"], "spiffe://a/b"),
            (&["URI=spiffe://a/admin, URI=spiffe://a/b"], "spiffe://a/b"),
            (&["URI=spiffe://a/admin", "URI=spiffe://a/b"], "spiffe://a/b"),
            (&["URI=spiffe://a/admin,DNS=admin", "DNS=x,URI=spiffe://a/b"], "spiffe://a/b"),
            (&["malformed\"", "URI=spiffe://a/b"], "spiffe://a/b"),
            // Separators inside quotes do not separate.
            (&["Subject=\"CN=x,URI=spiffe://a/admin;O=y\";URI=spiffe://a/b"], "spiffe://a/b"),
            (&["URI=spiffe://a/b;Subject=\"O=y,URI=spiffe://a/admin\""], "spiffe://a/b"),
            (&["URI=spiffe://a/b;Subject=\"CN=\\\",URI=spiffe://a/admin\""], "spiffe://a/b"),
            (&["URI=spiffe://a/b;Subject=\"CN=a\\\\\""], "spiffe://a/b"),
            (&["Subject=\"CN=a\\\\\",URI=spiffe://a/b"], "spiffe://a/b"),
            (&["Subject=\"O=Acme\\, Inc\";URI=spiffe://a/b"], "spiffe://a/b"),
            (&["Subject=;URI=spiffe://a/b"], "spiffe://a/b"),
            (&["Cert=\"-----BEGIN%20CERTIFICATE-----%0AMIIB==\";URI=spiffe://a/b"], "spiffe://a/b"),
        ] {
            assert_eq!(
                workload("x-forwarded-client-cert", values).as_deref(),
                Ok(name),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_names_no_workload() {
        for values in [
            &[][..],
            &[""],
            &["URI=spiffe://a/b", ""],
            &["spiffe://a/b"],
            &["URI"],
            &["=spiffe://a/b"],
            &["URI=spiffe://a/b,"],
            &["URI=spiffe://a/b;"],
            &[",URI=spiffe://a/b"],
            &["URI=spiffe://a/b,,URI=spiffe://a/b"],
            &["URI=\"spiffe://a/b"],
            &["URI=spiffe://a/b\""],
            &["URI=\"spiffe://a/b\"x"],
            &["URI=\"spiffe://a/b\\\""],
            &["U RI=spiffe://a/b"],
            // A quote that the client left open extends over what the proxy wrote, up to the
            // proxy's next quote.
            &["URI=spiffe://a/admin;X=\",By=spiffe://x/y;Hash=0;Subject=\"CN=b\";URI=spiffe://a/b"],
            &["URI=spiffe://a/admin;X=\",By=spiffe://x/y;Hash=0;Subject=\"\";URI=spiffe://a/b"],
            &["URI=spiffe://a/admin;X=\",By=spiffe://x/y;Hash=0;URI=spiffe://a/b"],
            &["URI=spiffe://a/admin;X=\\\",URI=spiffe://a/b"],
            // No name, or more than one.
            &["By=spiffe://a/b;Hash=0;Subject=\"CN=b\""],
            &["URI=spiffe://a/b;URI=spiffe://a/admin"],
            &["URI=spiffe://a/b;uri=https://a;DNS=b"],
            &["URI=spiffe://a/../b"],
            &["URI="],
            &["DNS=*.b"],
            &["URI=spiffe://a/admin,Hash=0"],
        ] {
            let refused = workload("x-forwarded-client-cert", values);
            assert!(
                refused.as_ref().is_err_and(|error| !error.contains("admin")),
                "{values:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn linkerd_sends_a_name_alone() {
        let name = "crm.shop.serviceaccount.identity.linkerd.cluster.local";
        assert_eq!(workload(LINKERD, &[name]).as_deref(), Ok(name));
        assert_eq!(workload(LINKERD, &["admin", &format!("admin, {name}")]).as_deref(), Ok(name));
        for bad in ["", "a,", "URI=spiffe://a/b", "a b"] {
            assert!(workload(LINKERD, &[bad]).is_err(), "{bad:?}");
        }
    }

    /// Whatever a client sends before the proxy's element: the result is the proxy's workload, or
    /// an error.
    #[test]
    fn nothing_that_a_client_sends_gets_it_another_name() {
        const FROM_PROXY: &str =
            "By=spiffe://x/y;Hash=0a;Subject=\"CN=b,O=\\\"c\\\"\";URI=spiffe://a/b";
        const PIECES: [&str; 10] =
            ["URI=spiffe://a/admin", "\"", "\\", ",", ";", "=", "X=", "X=\"", "\\\"", " "];
        let (mut named, mut refused) = (0, 0);
        for number in 0..PIECES.len().pow(5) {
            let digits = (0..5).map(|digit| number / PIECES.len().pow(digit) % PIECES.len());
            let forged: String = digits.map(|digit| PIECES[digit]).collect();
            match workload("x-forwarded-client-cert", &[&format!("{forged},{FROM_PROXY}")]) {
                Ok(name) => {
                    assert_eq!(&*name, "spiffe://a/b", "{forged}");
                    named += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(named > 100 && refused > 1000, "named {named}, refused {refused}");
    }
}

//! The address that the service listens on, which may be a name.

use std::{fmt, net::SocketAddr};

use tokio::net::lookup_host;

/// A host and a port: `127.0.0.1:50051`, `[::1]:50051`, `localhost:50051`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(String);

impl Listen {
    /// Parses an address. A name is not resolved yet.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "it takes a host and a port: 127.0.0.1:50051, [::1]:50051, localhost:50051";
        let named = || {
            let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
            port.parse::<u16>().map_err(|_| "the port must be a number from 0 to 65535")?;
            let is_name = !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
            if is_name { Ok(()) } else { Err("the host must be an IP address or a name") }
        };
        if text.parse::<SocketAddr>().is_err() {
            named().map_err(|fault: &str| format!("{fault}; {FORM}"))?;
        }
        Ok(Self(text.to_owned()))
    }

    /// The addresses of the host, at least one; `option` is named in errors. IPv4 addresses come first, because most clients try
    /// IPv4 first for `localhost`.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub async fn resolve(&self, option: &str) -> Result<Vec<SocketAddr>, String> {
        let found =
            lookup_host(&self.0).await.map_err(|error| format!("{option} {self}: {error}"))?;
        let mut addresses: Vec<_> = found.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.dedup();
        if addresses.is_empty() {
            Err(format!("{option} {self}: the name has no address"))
        } else {
            Ok(addresses)
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for good in
            ["127.0.0.1:50051", "[::1]:0", "localhost:50051", "accounts.internal:1", "a_b:65535"]
        {
            assert_eq!(Listen::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "localhost",
            ":50051",
            "localhost:",
            "localhost:grpc",
            "h:65536",
            "http://h:1",
            "::1:x",
            "a b:1",
            "::1:1",
        ] {
            let refused = Listen::parse(bad).unwrap_err();
            assert!(refused.contains("localhost:50051"), "{bad}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let resolve = async |name: &str| Listen::parse(name).unwrap().resolve("--listen").await;
        let addresses = resolve("localhost:7").await.unwrap();
        assert!(
            addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7),
            "{addresses:?}"
        );
        assert!(addresses.is_sorted_by_key(SocketAddr::is_ipv6), "{addresses:?}");
        let unknown = resolve("no-such-host.invalid:7").await.unwrap_err();
        assert!(unknown.starts_with("--listen no-such-host.invalid:7: "), "{unknown}");
    }
}

//! The options of identity: issuers of tokens, and tokens for development.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;
use http::Uri;

use crate::option_values::{at_least_one, at_most_five_minutes, duration, not_empty, not_zero};

/// How tokens are verified. Without an issuer there are no tokens, and the service trusts what
/// every caller says (development identity).
#[derive(Debug, Clone, Args)]
pub struct TokenOptions {
    /// Issuer of tokens and its keys: the exact `iss` of its tokens, and the https URL (http on
    /// loopback) or the file of its JSON Web Key Set. Can be given several times, or as a list with
    /// commas.
    #[arg(long = "token-issuer", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ISSUER",
          value_name = "ISSUER=JWKS", value_delimiter = ',', value_parser = token_issuer)]
    pub issuers: Vec<TokenIssuer>,

    /// The `aud` of tokens for this service; required with --token-issuer. If there are several, a
    /// token needs one of them.
    #[arg(long = "token-audience", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_AUDIENCE",
          value_name = "AUDIENCE", value_delimiter = ',', value_parser = not_empty)]
    pub audiences: Vec<String>,

    /// Prefix of the actors of an issuer: its `iss`, an equals sign and up to 50 characters that
    /// precede the `sub`. Several issuers must have different prefixes (one may have none); issuers
    /// with the same explicit prefix name the same people. Can be given several times, or as a list
    /// with commas.
    #[arg(long = "token-actor-prefix", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ACTOR_PREFIX",
          value_name = "ISSUER=PREFIX", value_delimiter = ',', value_parser = actor_prefix)]
    pub actor_prefixes: Vec<ActorPrefix>,

    /// Claim with the tenant: its name, or a JSON pointer that begins with a slash, such as
    /// /app/tenant.
    #[arg(long = "token-tenant-claim", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_TENANT_CLAIM",
          value_name = "CLAIM", default_value = "tenant_id", value_parser = not_empty)]
    pub tenant_claim: String,

    /// Claim with the roles, an array or a text with blanks between them; named like the tenant's.
    #[arg(long = "token-roles-claim", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_ROLES_CLAIM",
          value_name = "CLAIM", default_value = "roles", value_parser = not_empty)]
    pub roles_claim: String,

    /// Claim that is true for callers who reach the whole tenant; named like the tenant's.
    #[arg(long = "token-tenant-wide-claim", global = true,
          env = "CUSTOMER_ACCOUNTS_TOKEN_TENANT_WIDE_CLAIM", value_name = "CLAIM",
          default_value = "tenant_wide", value_parser = not_empty)]
    pub tenant_wide_claim: String,

    /// How far the clocks of issuer and service may differ; 0s to 5m.
    #[arg(long = "token-leeway", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_LEEWAY",
          default_value = "30s", value_parser = at_most_five_minutes)]
    pub leeway: Duration,

    /// Most verified tokens in the cache, each for at most five minutes.
    #[arg(long = "token-cache-size", global = true, env = "CUSTOMER_ACCOUNTS_TOKEN_CACHE_SIZE",
          default_value_t = 10_000, value_parser = at_least_one)]
    pub cache_size: usize,

    /// How often the service fetches an issuer's keys again while they are valid. It reads a file
    /// as often as --jwks-floor allows.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_REFRESH", default_value = "10m",
          value_parser = not_zero)]
    pub jwks_refresh: Duration,

    /// Least time between two fetches of an issuer's keys, whatever key ids tokens name.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_FLOOR", default_value = "5s",
          value_parser = not_zero)]
    pub jwks_floor: Duration,

    /// How long an issuer's keys are used after their last successful fetch.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_MAX_STALE", default_value = "24h",
          value_parser = not_zero)]
    pub jwks_max_stale: Duration,

    /// Most calls that wait for the keys of one issuer at once; further calls fail with
    /// UNAVAILABLE.
    #[arg(long, global = true, env = "CUSTOMER_ACCOUNTS_JWKS_MAX_WAITING", default_value_t = 128,
          value_parser = at_least_one)]
    pub jwks_max_waiting: usize,
}

impl TokenOptions {
    /// The prefix that was given for an issuer, if any.
    pub fn prefix_of(&self, issuer: &str) -> Option<&str> {
        self.actor_prefixes.iter().find(|of| of.issuer == issuer).map(|of| &*of.prefix)
    }
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// Where the service reads its keys.
    pub keys: KeySource,
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An https URL, or an http URL of this machine.
    Url(Uri),
    /// A file.
    File(PathBuf),
}

fn token_issuer(text: &str) -> Result<TokenIssuer, String> {
    const FORM: &str = "as https://issuer.example=https://issuer.example/keys, or with the path of \
                        a file after the `=`";
    let (issuer, keys) = text
        .split_once('=')
        .filter(|(issuer, keys)| !issuer.is_empty() && !keys.is_empty())
        .ok_or(FORM)?;
    let keys = if keys.contains("://") {
        let uri: Uri =
            keys.parse().map_err(|error| format!("{keys} is no URL: {error}; {FORM}"))?;
        let allowed = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => uri.host().is_some_and(is_this_machine),
            _ => false,
        };
        if !allowed {
            return Err(format!(
                "{keys}: keys come by https, or by http from a loopback address; {FORM}"
            ));
        }
        KeySource::Url(uri)
    } else {
        KeySource::File(keys.into())
    };
    Ok(TokenIssuer { issuer: issuer.to_owned(), keys })
}

/// The prefix that turns the subjects of an issuer into actors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorPrefix {
    /// The exact `iss`.
    pub issuer: String,
    /// The text that precedes `sub`.
    pub prefix: String,
}

/// Most characters of a prefix.
const MAX_PREFIX: usize = 50;

fn actor_prefix(text: &str) -> Result<ActorPrefix, String> {
    let (issuer, prefix) = text.split_once('=').ok_or("as https://partner.example=partner:")?;
    if issuer.is_empty()
        || prefix.chars().count() > MAX_PREFIX
        || prefix.chars().any(char::is_control)
    {
        return Err(format!(
            "an issuer, an equals sign and up to {MAX_PREFIX} characters, none of them a control \
             character"
        ));
    }
    Ok(ActorPrefix { issuer: issuer.to_owned(), prefix: prefix.to_owned() })
}

fn is_this_machine(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// The content of a token for development.
#[derive(Debug, Clone, Args)]
pub struct DevelopmentToken {
    /// The tenant.
    #[arg(long, default_value = "demo")]
    pub tenant: String,

    /// The subject: who acts.
    #[arg(long, default_value = "developer")]
    pub subject: String,

    /// The roles: viewer, editor, admin; several with commas.
    #[arg(long, default_value = "admin", value_delimiter = ',',
          value_parser = ["viewer", "editor", "admin"])]
    pub roles: Vec<String>,

    /// Whether the subject reaches the whole tenant. Administrators always do.
    #[arg(long)]
    pub tenant_wide: bool,

    /// How long the token is valid.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub expires_in: Duration,

    /// Folder of the key; --data-dir by default.
    #[arg(long)]
    pub key_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_of_tokens() {
        let source = |text: &str| token_issuer(text).map(|issuer| (issuer.issuer, issuer.keys));
        let (name, uri) = ("https://i.example/a", "https://i.example/keys?app=x=y");
        assert_eq!(
            source(&format!("{name}={uri}")),
            Ok((name.into(), KeySource::Url(uri.parse().unwrap())))
        );
        assert_eq!(
            source("dev=/a/b.json"),
            Ok(("dev".into(), KeySource::File("/a/b.json".into())))
        );
        for good in [
            "i=http://127.0.0.1:80/",
            "i=http://[::1]/k",
            "i=http://localhost:8080/k",
            "i=https://10.0.0.1/k",
        ] {
            assert!(matches!(source(good), Ok((_, KeySource::Url(_)))), "{good}");
        }
        for bad in [
            "",
            "https://i.example",
            "=k",
            "i=",
            "i=http://i.example/k",
            "i=http://localhost.example/k",
            "i=ftp://h/k",
            "i=file:///k",
            "i=https://",
        ] {
            assert!(source(bad).is_err(), "{bad}");
        }
    }
}

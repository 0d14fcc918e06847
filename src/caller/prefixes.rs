//! The prefixes by which the subjects of several issuers become different actors.

use std::collections::BTreeMap;

use super::{IdentityError, options::TokenOptions};

/// The prefixes of all issuers. No two issuers have the same one, unless the operator says that
/// they name the same people.
#[derive(Debug)]
pub(super) struct Prefixes(Vec<String>);

impl Prefixes {
    /// The prefixes of the configured issuers. Fails if two issuers could name different people by
    /// the same actor.
    pub(super) fn new(options: &TokenOptions) -> Result<Self, IdentityError> {
        let mut seen = Vec::new();
        for of in &options.actor_prefixes {
            if !options.issuers.iter().any(|issuer| issuer.issuer == of.issuer) {
                return Err(IdentityError::NoSuchIssuer(of.issuer.clone()));
            }
            if seen.contains(&&of.issuer) {
                return Err(IdentityError::TwoPrefixes(of.issuer.clone()));
            }
            seen.push(&of.issuer);
        }
        let mut prefixes = BTreeMap::new();
        for issuer in &options.issuers {
            let name = &issuer.issuer;
            let given = options.prefix_of(name);
            let earlier = prefixes.insert(given.unwrap_or_default(), (name, given.is_some()));
            // Two issuers may have the same prefix only if it is given for both.
            if let Some((other, on_purpose)) = earlier
                && !(on_purpose && given.is_some())
            {
                return Err(IdentityError::SameActors(other.clone(), name.clone()));
            }
        }
        Ok(Self(prefixes.into_keys().map(str::to_owned).collect()))
    }

    /// Whether an actor belongs to the issuers with this prefix. Every actor belongs to the longest
    /// prefix that it begins with, and to no other. So no subject of one issuer can look like a
    /// subject of another.
    pub(super) fn is_of(&self, actor: &str, prefix: &str) -> bool {
        let longest = self
            .0
            .iter()
            .filter(|prefix| actor.starts_with(prefix.as_str()))
            .max_by_key(|prefix| prefix.len());
        longest.is_some_and(|longest| longest == prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        caller::options::{ActorPrefix, KeySource, TokenIssuer},
        config::Cli,
    };

    fn prefixes(issuers: &[&str], given: &[(&str, &str)]) -> Result<Prefixes, IdentityError> {
        let mut options = <Cli as clap::Parser>::parse_from(["x"]).config.tokens;
        let issuer = |name: &&str| TokenIssuer {
            issuer: (*name).to_owned(),
            keys: KeySource::File("k".into()),
        };
        options.issuers = issuers.iter().map(issuer).collect();
        let given = given
            .iter()
            .map(|&(issuer, prefix)| ActorPrefix { issuer: issuer.into(), prefix: prefix.into() });
        options.actor_prefixes = given.collect();
        Prefixes::new(&options)
    }

    #[test]
    fn issuers_whose_subjects_could_be_confused_are_refused() {
        for (issuers, given) in [
            (&["a"][..], &[][..]),
            (&["a"], &[("a", "x:")]),
            (&["a", "b"], &[("b", "b:")]),
            (&["a", "b"], &[("a", "a:"), ("b", "b:")]),
            (&["a", "b", "c"], &[("b", "b:"), ("c", "b:c:")]),
            // Two issuers may have one prefix if the options give it to both.
            (&["a", "b"], &[("a", ""), ("b", "")]),
            (&["a", "b", "c"], &[("a", "x"), ("b", "x"), ("c", "x")]),
        ] {
            assert!(prefixes(issuers, given).is_ok(), "{issuers:?} {given:?}");
        }
        for (issuers, given, option) in [
            (&["a", "b"][..], &[][..], "--token-issuer: a and b"),
            (&["a", "b"], &[("b", "")], "--token-issuer: a and b"),
            (&["a", "b", "c"], &[("b", "b:")], "--token-issuer: a and c"),
            (&["a"], &[("b", "b:")], "--token-actor-prefix: b is not"),
            (&["a", "b"], &[("b", "b:"), ("b", "c:")], "--token-actor-prefix: b is given more"),
        ] {
            let refused = prefixes(issuers, given).unwrap_err().to_string();
            assert!(refused.contains(option), "{issuers:?} {given:?}: {refused}");
        }
    }

    /// Whatever subjects two issuers choose, the accepted ones are different actors.
    #[test]
    fn no_subject_is_an_actor_of_two_issuers() {
        const PARTS: [&str; 5] = ["", "a", "b:", "b:a", ":"];
        let all = ["", "b:", "b:a", "a"];
        let prefixes =
            prefixes(&["w", "x", "y", "z"], &[("x", "b:"), ("y", "b:a"), ("z", "a")]).unwrap();
        let mut actors = HashMap::new();
        for prefix in all {
            for (one, two) in PARTS.iter().flat_map(|one| PARTS.map(|two| (one, two))) {
                let actor = [prefix, one, two].concat();
                if prefixes.is_of(&actor, prefix) {
                    assert!(
                        [None, Some(prefix)].contains(&actors.insert(actor.clone(), prefix)),
                        "{actor:?}"
                    );
                }
            }
        }
        assert!(all.iter().all(|prefix| actors.values().any(|of| of == prefix)), "{actors:?}");
    }
}

//! JSON Web Key Sets (RFC 7517): the public keys of an issuer, each for one algorithm.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// Longest key set in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// Most keys of a set; issuers have two or three.
const MAX_KEYS: usize = 100;
/// Accepted lengths of an RSA modulus in bits: shorter keys are weak, and longer ones slow to
/// verify with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key that verifies tokens.
#[derive(Debug)]
pub(super) struct Key {
    jwk: Jwk,
    /// The only algorithm that tokens with this key may name (RFC 8725, section 3.1).
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    /// False as soon as the issuer no longer has the key.
    live: AtomicBool,
}

impl Key {
    /// Whether the issuer still has the key.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }
}

/// The usable keys of an issuer.
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet(Vec<Arc<Key>>);

/// Why a set has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key has the id.
    Unknown,
    /// The token names no key, and the set has several.
    Ambiguous,
    /// The key is for another algorithm.
    Algorithm,
}

impl KeySet {
    /// Parses a set. Keys that cannot verify tokens are left out; a set without any other key is an
    /// error.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json)
            .map_err(|error| format!("is not a JSON Web Key Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let jwks = set.keys.into_iter().filter_map(read);
        let keys: Vec<_> = jwks.filter_map(Key::new).map(Arc::new).collect();
        if keys.is_empty() {
            Err("has no key that can verify tokens".to_owned())
        } else {
            Ok(Self(keys))
        }
    }

    /// Replaces this set by `new`. Keys that are in both stay the same `Arc`; the others are no
    /// longer live.
    pub(super) fn replace(&mut self, mut new: Self) {
        for key in &mut new.0 {
            if let Some(old) = self.0.iter().find(|old| old.jwk == key.jwk) {
                *key = Arc::clone(old);
            }
        }
        for old in &self.0 {
            if !new.0.iter().any(|key| Arc::ptr_eq(key, old)) {
                old.live.store(false, Ordering::Relaxed);
            }
        }
        *self = new;
    }

    /// The key that a token's header names; without a key id, the only key of the set.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Arc<Key>, NoKey> {
        let Some(kid) = kid else {
            return match self.0.as_slice() {
                [key] if key.algorithm == algorithm => Ok(key),
                [_] => Err(NoKey::Algorithm),
                _ => Err(NoKey::Ambiguous),
            };
        };
        let named = || self.0.iter().filter(|key| key.jwk.common.key_id.as_deref() == Some(kid));
        let missing = if named().next().is_some() { NoKey::Algorithm } else { NoKey::Unknown };
        named().find(|key| key.algorithm == algorithm).ok_or(missing)
    }
}

impl Key {
    /// The key, if it is a public key for signatures whose algorithm fits it.
    fn new(jwk: Jwk) -> Option<Self> {
        let CommonParameters { public_key_use, key_operations, .. } = &jwk.common;
        let signs = public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let verifies =
            key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !(signs && verifies) {
            return None;
        }
        let algorithm = algorithm(&jwk)?;
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { jwk, algorithm, decoding, live: AtomicBool::new(true) })
    }
}

/// The algorithm that the key names, if it fits the type of the key; by default the usual one of
/// the type.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) if RSA_BITS.contains(&bits(&key.n)?) => {
            &[RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => return None,
    };
    match jwk.common.key_algorithm {
        None => fitting.first().copied(),
        Some(named) => Algorithm::try_from(named).ok().filter(|named| fitting.contains(named)),
    }
}

/// Parses one key. RFC 9864 renames `EdDSA` to `Ed25519`, but `jsonwebtoken` knows only the old
/// name, which most tokens use.
fn read(mut key: serde_json::Value) -> Option<Jwk> {
    if let Some(alg) = key.get_mut("alg").filter(|alg| *alg == "Ed25519") {
        *alg = "EdDSA".into();
    }
    serde_json::from_value(key).ok()
}

/// The length of a number in bits.
fn bits(number: &str) -> Option<usize> {
    let bytes = URL_SAFE_NO_PAD.decode(number).ok()?;
    let significant = bytes.iter().skip_while(|byte| **byte == 0);
    let first = significant.clone().next()?;
    Some(significant.count() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "JSON as it is written")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A number of this many bits.
    fn number(bits: usize) -> String {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] >>= bytes.len() * 8 - bits;
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn rsa(change: Value) -> Value {
        let mut key = json!({"kty": "RSA", "kid": "k", "n": number(2048), "e": "AQAB"});
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn algorithms(keys: Value) -> Vec<Algorithm> {
        let parsed = KeySet::parse(json!({"keys": keys}).to_string().as_bytes());
        parsed.map(|set| set.0.iter().map(|key| key.algorithm).collect()).unwrap_or_default()
    }

    #[test]
    fn a_key_is_for_one_algorithm_that_fits_it() {
        let ec = |crv: &str, alg: Value| {
            let coordinate = "AAAA";
            json!({"kty": "EC", "crv": crv, "x": coordinate, "y": coordinate, "alg": alg})
        };
        let ed = |alg: Value| json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "alg": alg});
        for (key, algorithm) in [
            (rsa(json!({})), Some(Algorithm::RS256)),
            (rsa(json!({"alg": "RS256"})), Some(Algorithm::RS256)),
            (rsa(json!({"alg": "PS512"})), Some(Algorithm::PS512)),
            (rsa(json!({"alg": "ES256"})), None),
            (rsa(json!({"alg": "HS256"})), None),
            (rsa(json!({"alg": "none"})), None),
            (rsa(json!({"alg": "RSA-OAEP"})), None),
            (ec("P-256", Value::Null), Some(Algorithm::ES256)),
            (ec("P-384", Value::Null), Some(Algorithm::ES384)),
            (ec("P-256", json!("ES384")), None),
            (ec("P-521", Value::Null), None),
            (ec("secp256k1", Value::Null), None),
            (ed(Value::Null), Some(Algorithm::EdDSA)),
            (ed(json!("Ed25519")), Some(Algorithm::EdDSA)),
            (ed(json!("RS256")), None),
        ] {
            assert_eq!(
                algorithms(json!([key])),
                algorithm.into_iter().collect::<Vec<_>>(),
                "{key}"
            );
        }
    }

    #[test]
    fn weak_secret_and_foreign_keys_are_left_out() {
        let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"});
        for key in [
            secret.clone(),
            rsa(json!({"use": "enc"})),
            rsa(json!({"key_ops": ["encrypt"]})),
            rsa(json!({"n": number(2047)})),
            rsa(json!({"n": number(1024)})),
            rsa(json!({"n": number(8193)})),
            rsa(json!({"n": "not base64!"})),
            rsa(json!({"n": 5})),
            json!({"kty": "XYZ"}),
            json!("key"),
        ] {
            assert!(algorithms(json!([key])).is_empty(), "{key}");
        }
        // A usable key beside them is used.
        assert_eq!(
            algorithms(json!([secret, "key", rsa(json!({"use": "sig", "key_ops": ["verify"]}))])),
            [Algorithm::RS256]
        );
    }

    #[test]
    fn what_is_not_a_set_is_refused() {
        let many = json!({"keys": vec![rsa(json!({})); MAX_KEYS + 1]}).to_string();
        let deep = "[".repeat(100_000);
        for json in ["", "{}", "[]", r#"{"keys": {}}"#, r#"{"keys": []}"#, "<html>", &many, &deep] {
            assert!(KeySet::parse(json.as_bytes()).is_err(), "{json:.40}");
        }
    }

    #[test]
    fn a_token_without_key_id_is_for_an_only_key() {
        let parse =
            |keys: Value| KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap();
        let one = parse(json!([rsa(json!({}))]));
        assert!(one.find(None, Algorithm::RS256).is_ok());
        assert_eq!(one.find(None, Algorithm::PS256).err(), Some(NoKey::Algorithm));
        assert_eq!(one.find(Some("k"), Algorithm::PS256).err(), Some(NoKey::Algorithm));
        assert_eq!(one.find(Some("K"), Algorithm::RS256).err(), Some(NoKey::Unknown));
        let two = parse(json!([rsa(json!({})), rsa(json!({"kid": "l"}))]));
        assert_eq!(two.find(None, Algorithm::RS256).err(), Some(NoKey::Ambiguous));
    }

    #[test]
    fn a_key_stays_the_same_until_it_is_withdrawn() {
        let parse =
            |keys: Value| KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap();
        let mut set = parse(json!([rsa(json!({}))]));
        let before = Arc::clone(set.find(Some("k"), Algorithm::RS256).unwrap());
        set.replace(parse(json!([rsa(json!({"kid": "l"})), rsa(json!({}))])));
        assert!(
            Arc::ptr_eq(&before, set.find(Some("k"), Algorithm::RS256).unwrap())
                && before.is_live()
        );
        // Another key with the same id is another key.
        set.replace(parse(json!([rsa(json!({"n": number(2049)}))])));
        assert!(!before.is_live());
    }
}

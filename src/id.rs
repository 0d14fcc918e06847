//! Ids of resources: chosen by the caller, or generated as TypeIDs.

use uuid::Uuid;

/// Longest id of a resource in characters.
pub const MAX_CHARS: usize = 50;

/// Longest pair of ids in characters: escaping may write three characters for each one of both ids.
pub const MAX_PAIR_CHARS: usize = 6 * MAX_CHARS + 1;

/// Longest prefix of a generated id. With the underscore and 26 digits the id is within
/// [`MAX_CHARS`].
pub const MAX_PREFIX: usize = 20;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Generates an id: `prefix`, an underscore and a UUID version 7 in Crockford base 32 (TypeID
/// specification 0.3). Later ids sort after earlier ones, to the millisecond.
pub fn generate(prefix: &str) -> String {
    encode(prefix, Uuid::now_v7())
}

/// The id of a relation between two resources: both ids with a slash between them. Ids may contain
/// slashes, so inside an id `%` is written `%25` and `/` is written `%2F`. Different pairs have
/// different ids.
pub fn pair(one: &str, other: &str) -> String {
    let escape = |id: &str| id.replace('%', "%25").replace('/', "%2F");
    format!("{}/{}", escape(one), escape(other))
}

/// Whether a text may be the prefix of generated ids: lower-case letters, and underscores between
/// them (TypeID 0.3).
pub fn is_prefix(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c == '_';
    (1..=MAX_PREFIX).contains(&text.len())
        && text.chars().all(fits)
        && !text.starts_with('_')
        && !text.ends_with('_')
}

fn encode(prefix: &str, uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    let mut id = String::with_capacity(prefix.len() + 27);
    id.push_str(prefix);
    id.push('_');
    id.extend((0..26).rev().map(|digit| char::from(ALPHABET[(bits >> (5 * digit)) as usize & 31])));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors from the TypeID specification's `valid.json`.
    #[test]
    fn encodes_the_vectors_of_the_specification() {
        for (id, uuid) in [
            ("prefix_00000000000000000000000000", "00000000-0000-0000-0000-000000000000"),
            ("prefix_0123456789abcdefghjkmnpqrs", "0110c853-1d09-52d8-d73e-1194e95b5f19"),
            ("prefix_01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057"),
            ("prefix_7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        ] {
            assert_eq!(encode("prefix", uuid.parse().unwrap()), id);
        }
    }

    #[test]
    fn prefixes_are_lower_case_letters_with_underscores_between() {
        let longest = "x".repeat(MAX_PREFIX);
        assert!(["a", "acct", "a_b", "a__b", &longest].into_iter().all(is_prefix));
        assert!(
            ["", "_a", "a_", "_", "Acct", "a1", "a-b", "ä", &"x".repeat(MAX_PREFIX + 1)]
                .into_iter()
                .all(|bad| !is_prefix(bad))
        );
        assert!(generate(&longest).len() <= MAX_CHARS);
    }

    #[test]
    fn pairs_of_different_ids_differ() {
        assert_eq!(pair("acct", "pers"), "acct/pers");
        let ids = ["a", "b", "a/b", "b/a", "/", "//", "%", "%2F", "%25", "%252F", "2F", "a%2Fb"];
        let pairs: std::collections::BTreeSet<_> =
            ids.iter().flat_map(|one| ids.iter().map(|other| pair(one, other))).collect();
        assert_eq!(pairs.len(), ids.len() * ids.len());
        assert_eq!(pair(&"/".repeat(MAX_CHARS), &"%".repeat(MAX_CHARS)).len(), MAX_PAIR_CHARS);
    }

    #[test]
    fn generated_ids_fit_and_sort_by_age() {
        let at = |millis: u32| {
            let time = uuid::Timestamp::from_unix_time(1_700_000_000, millis * 1_000_000, 0, 0);
            encode("acct", Uuid::new_v7(time))
        };
        assert!(at(1) < at(2));
        assert!(generate("acct").len() <= MAX_CHARS);
    }
}

//! Search by the beginnings of words, in any order, without regard to case or accents.
//!
//! Under row-level security only leakproof comparisons can use an index, so `LIKE` and trigrams cannot. Each searchable
//! resource keeps its normalised words in a table of its own, and a search term is a range over that table.

use std::collections::BTreeSet;

use diesel::sql_types::{Array, SingleValue};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

diesel::define_sql_function! {
    /// The elements of an array as rows: one cached statement inserts any number of rows.
    fn unnest<T: SingleValue>(elements: Array<T>) -> T;
}

/// Most terms of a query. Each is a condition of its own, and the time that PostgreSQL takes to plan a query grows much
/// faster than their number: 99 took seconds.
pub const MAX_TERMS: usize = 8;

/// Longest word kept, in characters; a longer one is found by its first so many.
const MAX_WORD_CHARS: usize = 60;

/// Above every character that a normalised word contains: the open end of a prefix range.
const LAST: char = char::MAX;

/// `text` without case and accents: the order of lists, and the form in which words are kept and looked up.
pub fn fold(text: &str) -> String {
    text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).flat_map(unaccented).collect()
}

/// Letters that carry their mark inside and therefore do not decompose, and the sigma at the end of a word, which is a form
/// that the capital does not have.
fn unaccented(c: char) -> impl Iterator<Item = char> {
    let plain = match c {
        'ß' => "ss",
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'ł' => "l",
        'đ' | 'ð' => "d",
        'þ' => "th",
        'ı' => "i",
        'ħ' => "h",
        'ς' => "σ",
        _ => "",
    };
    plain.chars().chain(plain.is_empty().then_some(c))
}

/// The words under which a resource with these texts is found: from every beginning of letters and digits on to the next
/// blank, so that `jane.doe@acme.example` is found by `jane.doe@`, by `doe`, and by `acme.ex`.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut words = BTreeSet::new();
    for text in texts {
        for token in fold(text).split_whitespace() {
            let mut inside = false;
            for (start, c) in token.char_indices() {
                if c.is_alphanumeric() && !inside {
                    words.insert(shorten(&token[start..]));
                }
                inside = c.is_alphanumeric();
            }
        }
    }
    words.into_iter().collect()
}

/// The ranges, from (inclusive) and to (exclusive), that a query asks for: one for each of its terms, all of which must match.
pub fn ranges(query: &str) -> Vec<(String, String)> {
    let terms: BTreeSet<_> = fold(query)
        .split_whitespace()
        .map(|term| shorten(term.trim_matches(|c: char| !c.is_alphanumeric())))
        .filter(|term| !term.is_empty())
        .collect();
    terms
        .into_iter()
        .map(|from| {
            let to = format!("{from}{LAST}");
            (from, to)
        })
        .collect()
}

fn shorten(word: &str) -> String {
    word.chars().take(MAX_WORD_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(query: &str, texts: &[&str]) -> bool {
        let words = words(texts.iter().copied());
        ranges(query).iter().all(|(from, to)| words.iter().any(|word| from <= word && word < to))
    }

    #[test]
    fn finds_by_the_beginnings_of_words_in_any_order() {
        let texts = ["acct-0042", "Société Générale (Zürich) AG", "jane.doe@acme.example", "O'Neil-Smith"];
        for query in [
            "soc",
            "GEN zur",
            "zurich SOCIETE",
            "acct-0042",
            "0042",
            "jane.doe@acme",
            "doe",
            "(zu",
            "o'neil",
            "smith,",
            "neil-sm",
        ] {
            assert!(finds(query, &texts), "{query} finds");
        }
        for query in ["ociete", "generale x", "042", "ane", "jane.doe@b"] {
            assert!(!finds(query, &texts), "{query} does not find");
        }
    }

    #[test]
    fn folds_case_accents_and_letters_that_do_not_decompose() {
        assert_eq!(fold("ÅNGSTRÖM Straße Łódź Ⅷ İstanbul Οδός"), "angstrom strasse lodz viii istanbul οδοσ");
    }

    #[test]
    fn a_query_of_nothing_but_marks_asks_for_nothing() {
        assert!(ranges(" -- ,. ").is_empty());
    }
}

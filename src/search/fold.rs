//! Folding: the form of texts in which case and accents do not count.

use icu_properties::props::Script;
use unicode_normalization::UnicodeNormalization as _;

use super::SCRIPT;
use crate::text::{caseless, is_mark};

/// `text` without case and accents: the order of lists, and the form in which words are stored and
/// looked up.
///
/// Marks on Latin, Greek and Cyrillic letters are accents, which are removed. In other scripts a
/// mark makes another letter and is kept, except for the vowel signs of Hebrew and Arabic, which
/// are seldom written, and the hamza or madda of an alef.
pub fn fold(text: &str) -> String {
    let mut base = None;
    let mut folded = String::with_capacity(text.len());
    for c in caseless(text).nfd() {
        if is_mark(c) {
            if !base.is_some_and(|base| is_accent(base, c)) {
                folded.push(c);
            }
        } else if c != TATWEEL {
            base = Some(c);
            match unaccented(c) {
                Some(plain) => folded.push_str(plain),
                None => folded.push(c),
            }
        }
    }
    folded.nfc().collect()
}

/// The character that stretches an Arabic word to fill a line.
const TATWEEL: char = '\u{640}';
const ALEF: char = '\u{627}';

/// Whether this mark is often left out on this letter.
fn is_accent(base: char, mark: char) -> bool {
    match SCRIPT.get(base) {
        Script::Latin | Script::Greek | Script::Cyrillic => true,
        Script::Hebrew => matches!(mark, '\u{591}'..='\u{5c7}'),
        Script::Arabic => match mark {
            '\u{610}'..='\u{61a}'
            | '\u{64b}'..='\u{652}'
            | '\u{656}'..='\u{65f}'
            | '\u{670}'
            | '\u{6d6}'..='\u{6ed}' => true,
            '\u{653}'..='\u{655}' => base == ALEF,
            _ => false,
        },
        _ => false,
    }
}

/// Letters that contain their mark and so do not decompose.
const fn unaccented(c: char) -> Option<&'static str> {
    Some(match c {
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'ł' => "l",
        'đ' | 'ð' => "d",
        'þ' => "th",
        'ı' => "i",
        'ħ' => "h",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_case_accents_and_letters_that_do_not_decompose() {
        assert_eq!(
            fold("ÅNGSTRÖM Straße Łódź Ⅷ İstanbul Οδός"),
            "angstrom strasse lodz viii istanbul οδοσ"
        );
    }

    #[test]
    fn marks_are_folded_only_where_they_are_accents() {
        for (one, other, same) in [
            ("Müller", "muller", true),
            ("Nguyễn", "nguyen", true),
            ("Ελλάδα", "ελλαδα", true),
            ("Ёлка", "елка", true),
            ("がく", "かく", false),
            ("ガス", "カス", false),
            ("ｶﾞｽ", "ガス", true),
            ("パン", "ハン", false),
            ("कि", "क", false),
            ("की", "कि", false),
            ("क्रम", "कर्म", false),
            ("ก่า", "กา", false),
            ("บ้าน", "บาน", false),
            ("한", "하", false),
            ("שָׁלוֹם", "שלום", true),
            ("مُحَمَّد", "محمد", true),
            ("أحمد", "احمد", true),
            ("آرش", "ارش", true),
            ("سؤال", "سوال", false),
            ("مـــحمد", "محمد", true),
            ("Ｔｏｙｏｔａ", "toyota", true),
            ("ﬁnance", "finance", true),
            ("O’Brien", "o'brien", true),
            ("O‘Brien", "O`Brien", true),
            ("Müller–Lüdenscheidt", "muller-ludenscheidt", true),
            ("„Haus“", "\"haus\"", true),
            ("Donau\u{ad}dampf", "donaudampf", true),
            ("zero\u{200b}width\u{feff}", "zerowidth", true),
            ("می\u{200c}خواهم", "میخواهم", true),
            ("❤\u{fe0f}", "❤", true),
        ] {
            assert_eq!(
                fold(one) == fold(other),
                same,
                "{one} {other}: {:?} {:?}",
                fold(one),
                fold(other)
            );
        }
    }
}

//! Unicode: the form in which texts are stored, the characters that they may have, and when two of
//! them are the same name.
//!
//! The rules depend on the use of a text. An id or an actor is compared by its characters, so all
//! of them must be visible. A name is read by people: it may have invisible characters that writing
//! needs (joiners in Indic scripts and Persian, soft hyphens), but none that change how the text
//! around it looks.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const CATEGORY: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();
const IGNORABLE: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<DefaultIgnorableCodePoint>();

/// Characters that join or separate the letters beside them, in Indic scripts, Persian and emoji.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// The use of a text, which decides the characters that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// An id or an actor, compared by its characters.
    Id,
    /// The name of an account type or of a role: chosen from a list, and unique without regard to
    /// case.
    Label,
    /// The name of a person, an organization or an account, and every other text of one line.
    Line,
}

impl Use {
    /// Whether a text for this use may have the character. Control characters have a separate rule.
    fn allows(self, c: char) -> bool {
        use GeneralCategory as G;
        match CATEGORY.get(c) {
            G::Control => true,
            G::LineSeparator | G::ParagraphSeparator | G::Surrogate => false,
            _ if is_noncharacter(c) => false,
            // All of these look like a space.
            G::SpaceSeparator => self != Self::Id || c == ' ',
            _ if is_blank_symbol(c) => self == Self::Line,
            // Characters of later versions of Unicode are unassigned here. Names may have them.
            G::Unassigned | G::PrivateUse => self == Self::Line && !is_ignorable(c),
            // The visible ones among them include the Arabic signs for numbers and years.
            G::Format => {
                self == Self::Line
                    && (is_allowed_in_names(c) || !is_ignorable(c) && !is_annotation(c))
            }
            // Fillers and variation selectors.
            _ if is_ignorable(c) => {
                self == Self::Line || (self == Self::Label && is_variation_selector(c))
            }
            _ => true,
        }
    }

    /// The first character that a text for this use may not have.
    pub fn refused(self, text: &str) -> Option<char> {
        if text.is_ascii() {
            return None;
        }
        text.chars().find(|c| !self.allows(*c))
    }
}

/// Whether the characters of a text allow it to be an id or an actor: it must be normalized,
/// because it is compared by its characters, and all of them must be visible.
pub fn is_exact(text: &str) -> bool {
    is_normal(text) && Use::Id.refused(text).is_none() && is_visible(text)
}

/// Whether a text is in Unicode normalization form C.
pub fn is_normal(text: &str) -> bool {
    is_nfc(text)
}

/// `text` in Unicode normalization form C, in which an accented letter is one character if Unicode
/// has that character.
pub fn normalize(text: String) -> String {
    if is_nfc(&text) { text } else { text.nfc().collect() }
}

/// Whether any character of the text is visible.
pub fn is_visible(text: &str) -> bool {
    use GeneralCategory as G;
    text.chars().any(|c| {
        let blank = is_blank(c) || is_ignorable(c) || is_noncharacter(c);
        // A mark alone is not visible; it belongs to the character before it.
        !blank
            && !matches!(
                CATEGORY.get(c),
                G::Control
                    | G::NonspacingMark
                    | G::EnclosingMark
                    | G::LineSeparator
                    | G::ParagraphSeparator
            )
    })
}

/// Whether a character looks like a space, whatever its category.
pub const fn is_blank(c: char) -> bool {
    c.is_whitespace() || is_blank_symbol(c)
}

/// Whether a character is invisible although Unicode calls it a symbol: Braille without a dot, a
/// note without a head, the blanks of hieroglyphs, the replacement of a missing object.
const fn is_blank_symbol(c: char) -> bool {
    matches!(c, '\u{2800}' | '\u{1d159}' | '\u{13441}' | '\u{13442}' | '\u{fffc}')
}

/// Whether a character is a mark on the character before it.
pub fn is_mark(c: char) -> bool {
    use GeneralCategory as G;
    !c.is_ascii()
        && matches!(CATEGORY.get(c), G::NonspacingMark | G::SpacingMark | G::EnclosingMark)
}

/// Whether a character is invisible and joins or separates the letters beside it.
pub fn is_joiner(c: char) -> bool {
    JOINERS.contains(&c)
}

/// The general category of a character.
pub fn category(c: char) -> GeneralCategory {
    CATEGORY.get(c)
}

/// `text` in a form that is the same for all its spellings which differ by case, by width or form
/// of the letters, by invisible characters, or by the form of apostrophes, quotes and dashes:
/// `Straße` and `STRASSE`, `ＶＩＰ` and `vip`. Accents count.
///
/// This is Unicode's `toNFKC_Casefold`, and `plain`.
pub fn caseless(text: &str) -> String {
    let shown = |c: &char| !is_ignorable(*c);
    let plain_text: String =
        text.chars().filter(shown).map(plain).nfkd().filter(shown).map(plain).collect();
    CASE.fold_string(&plain_text).nfkc().collect()
}

/// The keyboard's character for one that word processors replace it by: apostrophes, quotes and
/// dashes.
const fn plain(c: char) -> char {
    match c {
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{2032}' | '\u{2035}'
        | '\u{2039}' | '\u{203a}' | '\u{02b9}' | '\u{02bb}' | '\u{02bc}' | '\u{02bd}'
        | '\u{02c8}' | '\u{00b4}' | '\u{0060}' | '\u{055a}' | '\u{05f3}' | '\u{a78c}' => '\'',
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{2033}' | '\u{2036}'
        | '\u{00ab}' | '\u{00bb}' | '\u{05f4}' => '"',
        '\u{2010}'..='\u{2015}'
        | '\u{2043}'
        | '\u{2212}'
        | '\u{058a}'
        | '\u{05be}'
        | '\u{fe58}'
        | '\u{fe63}'
        | '\u{ff0d}' => '-',
        c if is_blank_symbol(c) => ' ',
        c => c,
    }
}

/// Whether a character is invisible and affects only the characters beside it: zero-width
/// characters, soft hyphens, joiners, variation selectors, fillers, direction marks.
fn is_ignorable(c: char) -> bool {
    !c.is_ascii() && IGNORABLE.contains(c)
}

/// Invisible characters that names have for a reason: joiners, direction marks, and what text from
/// web pages and word processors contains. Embeddings, overrides and isolates do not belong to
/// them, because they also change the direction of the text around the name.
const fn is_allowed_in_names(c: char) -> bool {
    matches!(
        c,
        '\u{00ad}'
            | '\u{061c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2060}'
            | '\u{feff}'
            | '\u{e0020}'..='\u{e007f}'
    )
}

/// Interlinear annotation characters. They are invisible too, although Unicode's property does not
/// say so.
const fn is_annotation(c: char) -> bool {
    matches!(c, '\u{fff9}'..='\u{fffb}')
}

const fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

const fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || (c as u32) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_refused_by_use() {
        // The uses that refuse the text: i(d), l(abel), n(ame and other lines).
        for (text, refused_in) in [
            ("Zürich 東京 🍕 №5 ½ a'b", ""),
            ("क्षत्रिय", ""),
            ("می\u{200c}خواهم", "il"),
            ("क्\u{200d}ष", "il"),
            ("👩\u{200d}🚀", "il"),
            ("❤\u{fe0f}", "i"),
            ("葛\u{e0100}城", "i"),
            ("Donau\u{ad}dampf", "il"),
            ("zero\u{200b}width", "il"),
            ("\u{feff}bom", "il"),
            ("\u{200f}עברית\u{200e}", "il"),
            ("override \u{202e}gpj.exe", "iln"),
            ("embedding \u{202a}x\u{202c}", "iln"),
            ("isolate \u{2066}x\u{2069}", "iln"),
            ("line\u{2028}separator", "iln"),
            ("paragraph\u{2029}separator", "iln"),
            ("noncharacter \u{fdd0}", "iln"),
            ("noncharacter \u{10ffff}", "iln"),
            ("annotation \u{fff9}", "iln"),
            ("deprecated \u{206a}", "iln"),
            ("private \u{e000}", "il"),
            ("unassigned \u{378}", "il"),
            ("filler \u{3164}", "il"),
            ("sign of a year \u{601}", "il"),
            ("no-break\u{a0}space", "i"),
            ("ideographic\u{3000}space", "i"),
            ("ogham\u{1680}space", "i"),
            ("blank\u{2800}Braille", "il"),
            ("note without a head \u{1d159}", "il"),
            ("blank hieroglyph \u{13441}", "il"),
            ("missing object \u{fffc}", "il"),
        ] {
            for (letter, purpose) in [('i', Use::Id), ('l', Use::Label), ('n', Use::Line)] {
                assert_eq!(
                    purpose.refused(text).is_some(),
                    refused_in.contains(letter),
                    "{text:?} as {purpose:?}"
                );
            }
        }
    }

    #[test]
    fn a_text_of_nothing_visible() {
        for nothing in [
            "",
            " ",
            "\u{200b}",
            "\u{3164}",
            "\u{2800}",
            "\u{a0}\u{2060}",
            "\u{ffa0}",
            "\u{301}",
            "\u{fe0f}\u{200d}",
        ] {
            assert!(!is_visible(nothing), "{nothing:?}");
        }
        for something in ["a", "\u{200b}a", "-", "🍕", "ー", "\u{e000}"] {
            assert!(is_visible(something), "{something:?}");
        }
    }

    #[test]
    fn caseless_texts_are_the_same_in_every_spelling() {
        for (one, other) in [
            ("Straße", "STRASSE"),
            ("GROẞ", "gross"),
            ("ΟΔΌΣ", "οδός"),
            ("Ελληνικός", "ΕΛΛΗΝΙΚΌΣ"),
            ("ＶＩＰ", "vip"),
            ("ﬁne", "FINE"),
            ("Cafe\u{301}", "CAFÉ"),
            ("ｶﾞｽ", "ガス"),
            ("Ꮳ", "ꮳ"),
            ("a\u{200b}b\u{ad}c\u{fe0f}", "ABC"),
            ("O’Brien – “x”", "o'brien - \"X\""),
            ("ǰ", "J\u{30c}"),
        ] {
            assert_eq!(caseless(one), caseless(other), "{one} {other}");
        }
        for (one, other) in
            [("Café", "Cafe"), ("が", "か"), ("ı", "i"), ("a b", "ab"), ("ひ", "ヒ")]
        {
            assert_ne!(caseless(one), caseless(other), "{one} {other}");
        }
    }

    #[test]
    fn ids_are_exact() {
        for good in ["a", "Zürich", "عميل", "客戶-1", "a b"] {
            assert!(is_exact(good), "{good:?}");
        }
        for bad in ["", "Zu\u{308}rich", "a\u{200b}", "\u{2800}", "\u{202e}a"] {
            assert!(!is_exact(bad), "{bad:?}");
        }
    }
}

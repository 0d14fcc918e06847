//! Search by the beginnings of words, in any order, without case and accents.
//!
//! Under row-level security only leakproof comparisons can use an index, so `LIKE` and trigrams
//! cannot. Each searchable resource stores its folded words in a table of its own, and a search
//! term is a range over that table.
//!
//! A change of the stored words, of [`fold`] or of [`words`] needs a new [`FOLDING`]:
//! `crate::renew` then renews the existing rows.

mod fold;

use std::collections::BTreeSet;

use diesel::sql_types::{Array, SingleValue};
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed,
    props::{GeneralCategory, Script},
};

pub use self::fold::fold;
use crate::text::{category, is_mark};

const SCRIPT: CodePointMapDataBorrowed<'static, Script> = CodePointMapData::new();

diesel::define_sql_function! {
    /// The elements of an array as rows: one cached statement inserts any number of rows.
    fn unnest<T: SingleValue>(elements: Array<T>) -> T;
}

/// The version of [`fold`] and [`words`], below [`FOLDINGS`].
pub const FOLDING: i64 = 2;
/// The factor of a revision in a stamp. A change that leaves the words as they are adds this number
/// to the stamp.
pub const FOLDINGS: i64 = 1000;

/// The value of `folded` in a row of this revision whose sort key and words are those of this
/// version. A change that does not set the column, such as one by a replica of the previous
/// version, thereby marks both as outdated.
pub const fn stamp(revision: i64) -> i64 {
    revision * FOLDINGS + FOLDING
}

/// What a store has renewed in one transaction: the number of rows, and the id of the last; `None`
/// if no row was left.
pub type Batch = Option<(usize, String)>;

/// Most rows that are renewed in one transaction, which locks them.
pub const BATCH: i64 = 500;

/// Renews sort keys and words of a tenant's next rows, in the order of their ids, whose stamp is
/// not that of their revision. Nothing else of a row changes, not even its revision. Expands to the
/// body of the store's `renew`.
macro_rules! renew {
    (
        $conn:ident, $tenant:ident, $after:ident, $table:ident, $words:ident, $id:ident,
        |$row:ident| $named:expr
    ) => {
        $crate::search::renew!(
            $conn,
            $tenant,
            $after,
            $table,
            $words,
            $id,
            |$row| $named,
            display_name
        )
    };
    (
        $conn:ident, $tenant:ident, $after:ident, $table:ident, $words:ident, $id:ident,
        |$row:ident| $named:expr, $name:ident
    ) => {{
        use std::collections::{BTreeMap, BTreeSet};
        let stamp = || $table::revision * $crate::search::FOLDINGS + $crate::search::FOLDING;
        let rows: Vec<Self> = $table::table
            .filter($table::tenant_id.eq($tenant).and($table::$id.gt($after)))
            .filter($table::folded.ne(stamp()))
            .order($table::$id)
            .limit($crate::search::BATCH)
            .select(Self::as_select())
            .for_update()
            .load($conn)
            .await?;
        let Some(last) = rows.last().map(|row| row.$id.clone()) else { return Ok(None) };
        let ids: Vec<&str> = rows.iter().map(|row| &*row.$id).collect();
        let mut kept = BTreeMap::<String, BTreeSet<String>>::new();
        let of_rows = || $words::table.filter($words::tenant_id.eq($tenant));
        let words = of_rows().filter($words::$id.eq_any(&ids)).select(($words::$id, $words::word));
        for (id, word) in words.load::<(String, String)>($conn).await? {
            kept.entry(id).or_default().insert(word);
        }
        let (mut stale, mut new) = (Vec::new(), (Vec::new(), Vec::new()));
        for row in &rows {
            let words: BTreeSet<_> = row.words().into_iter().collect();
            if kept.get(&row.$id) != Some(&words) {
                stale.push(&*row.$id);
                new.0.extend(words.iter().map(|_| row.$id.clone()));
                new.1.extend(words);
            }
            let $row = row;
            let sort_key = $crate::search::fold(&$named.$name);
            if sort_key != $named.sort_key {
                diesel::update(
                    $table::table
                        .filter($table::tenant_id.eq($tenant).and($table::$id.eq(&row.$id))),
                )
                .set(($table::sort_key.eq(sort_key), $table::folded.eq(stamp())))
                .execute($conn)
                .await?;
            }
        }
        if !stale.is_empty() {
            diesel::delete(of_rows().filter($words::$id.eq_any(stale))).execute($conn).await?;
            diesel::insert_into($words::table)
                .values(diesel::select((
                    diesel::IntoSql::into_sql::<diesel::sql_types::Text>($tenant),
                    $crate::search::unnest(new.0),
                    $crate::search::unnest(new.1),
                )))
                .into_columns(($words::tenant_id, $words::$id, $words::word))
                .execute($conn)
                .await?;
        }
        diesel::update(
            $table::table.filter($table::tenant_id.eq($tenant).and($table::$id.eq_any(&ids))),
        )
        .filter($table::folded.ne(stamp()))
        .set($table::folded.eq(stamp()))
        .execute($conn)
        .await?;
        Ok(Some((rows.len(), last)))
    }};
}
pub(crate) use renew;

/// Most terms of a query. Each is a condition of its own, and PostgreSQL's planning time grows much
/// faster than their number: with 99 terms it was seconds.
pub const MAX_TERMS: usize = 8;

/// Longest stored word in characters. A longer word is found by this many of its first characters.
const MAX_WORD_CHARS: usize = 60;

/// Most words stored for one text. A name of Latin letters cannot have more. A text in a script
/// without blanks is found by any part up to this length.
const MAX_WORDS: usize = 100;

/// Greater than every character of a folded word: the open end of a prefix range.
const LAST: char = char::MAX;

/// Signs that count as signs although Unicode calls them punctuation, because people write them for
/// their meaning.
const SIGNS: &str = "#%&*@/\\§†‡‰";

/// The role of a character in the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A letter or a digit of a word.
    Letter,
    /// A letter of a script that is written without blanks between words.
    Unspaced,
    /// A sign that counts: `+`, `#`, `_`, an emoji.
    Sign,
    /// Punctuation around words: full stops, brackets, quotes.
    Punctuation,
}

impl Role {
    /// The role of a character that follows one of the role `before`.
    fn of(c: char, before: Option<Self>) -> Self {
        use GeneralCategory as G;
        if c.is_ascii_alphanumeric() {
            return Self::Letter;
        }
        match category(c) {
            // These belong to the character before them, as does the Japanese sign that lengthens a
            // vowel.
            G::NonspacingMark | G::SpacingMark | G::EnclosingMark => before.unwrap_or(Self::Sign),
            G::ModifierLetter if SCRIPT.get(c) == Script::Common => before.unwrap_or(Self::Letter),
            // 〇 (zero) is written among Han characters.
            G::LetterNumber if is_unspaced(c) => Self::Unspaced,
            G::DecimalNumber | G::LetterNumber | G::OtherNumber => Self::Letter,
            _ if c.is_alphabetic() && is_unspaced(c) => Self::Unspaced,
            _ if c.is_alphabetic() => Self::Letter,
            _ if is_punctuation(c) => Self::Punctuation,
            _ => Self::Sign,
        }
    }
}

fn is_punctuation(c: char) -> bool {
    use GeneralCategory as G;
    match category(c) {
        G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::DashPunctuation => true,
        G::OtherPunctuation => !SIGNS.contains(c),
        _ => false,
    }
}

/// Whether a letter belongs to a script that is written without blanks between words.
fn is_unspaced(c: char) -> bool {
    const UNSPACED: [Script; 16] = [
        Script::Han,
        Script::Hiragana,
        Script::Katakana,
        Script::Bopomofo,
        Script::Yi,
        Script::Thai,
        Script::Lao,
        Script::Khmer,
        Script::Myanmar,
        Script::Tibetan,
        Script::Javanese,
        Script::Balinese,
        Script::TaiLe,
        Script::NewTaiLue,
        Script::TaiTham,
        Script::TaiViet,
    ];
    !c.is_ascii() && UNSPACED.contains(&SCRIPT.get(c))
}

/// Where in a folded text without blanks the stored words begin: at a run of letters and digits, at
/// every letter of a script without blanks, at a run of ASCII signs, at every other sign. An
/// underscore inside a word begins none, because each generated id has one.
fn beginnings(token: &str) -> impl Iterator<Item = usize> {
    let mut before = None;
    token.char_indices().filter_map(move |(at, c)| {
        let kind = Role::of(c, before);
        let begins = match kind {
            _ if is_mark(c) => before.is_none(),
            Role::Letter => before != Some(Role::Letter),
            // The vowel sign ー, which has no script of its own, continues a word.
            Role::Unspaced => before != Some(Role::Unspaced) || SCRIPT.get(c) != Script::Common,
            Role::Sign if c == '_' => {
                !matches!(before, Some(Role::Letter | Role::Unspaced | Role::Sign))
            }
            Role::Sign => !c.is_ascii() || before != Some(Role::Sign),
            Role::Punctuation => false,
        };
        before = Some(kind);
        begins.then_some(at)
    })
}

/// The words under which a resource with these texts is found: from every beginning to the next
/// blank. So `jane.doe@acme.example` is found by `jane.doe@`, `doe`, `@acme` and `acme.ex`, and
/// `株式会社トヨタ自動車` by `トヨタ`.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut words = BTreeSet::new();
    for text in texts {
        let folded = fold(text);
        let of_token = |token: &'_ str| -> Vec<String> {
            let mut words: Vec<_> =
                beginnings(token).map(|start| stored(&token[start..])).collect();
            if words.is_empty() {
                words.push(stored(token)); // only punctuation
            }
            words
        };
        words.extend(folded.split_whitespace().flat_map(of_token).take(MAX_WORDS));
    }
    words.into_iter().collect()
}

/// The ranges of words, from (inclusive) and to (exclusive), that a query asks for: one for each of
/// its terms, all of which must match. An empty query has no range. A query of nothing but blanks
/// has one empty range, so it matches nothing.
///
/// Punctuation around a term is removed, except for a dash at its end: `smith,` means `smith`,
/// `acct-` means `acct-`. A query of nothing but punctuation means that punctuation.
pub fn ranges(query: &str) -> Vec<(String, String)> {
    if query.is_empty() {
        return Vec::new();
    }
    let folded = fold(query);
    let trimmed = |token: &'_ str| {
        let token = token.trim_start_matches(is_punctuation);
        stored(token.trim_end_matches(|c| c != '-' && is_punctuation(c)))
    };
    let mut terms: BTreeSet<_> =
        folded.split_whitespace().map(trimmed).filter(|term| !term.is_empty()).collect();
    if terms.is_empty() {
        terms = folded.split_whitespace().map(stored).collect();
    }
    if terms.is_empty() {
        return vec![(String::new(), String::new())];
    }
    let range = |from: String| {
        let to = format!("{from}{LAST}");
        (from, to)
    };
    terms.into_iter().map(range).collect()
}

/// A word in its stored form. In the words of an account, `@` begins a reference to a person. So a
/// blank, which no word contains, is put before a word that begins with `@`.
fn stored(word: &str) -> String {
    let word = word.chars().take(MAX_WORD_CHARS);
    if word.clone().next() == Some('@') {
        std::iter::once(' ').chain(word).collect()
    } else {
        word.collect()
    }
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
        let texts =
            ["acct-0042", "Société Générale (Zürich) AG", "jane.doe@acme.example", "O'Neil-Smith"];
        for query in [
            "soc",
            "GEN zur",
            "zurich SOCIETE",
            "acct-0042",
            "acct-",
            "0042",
            "jane.doe@acme",
            "jane.doe@",
            "@acme",
            "doe",
            "(zu",
            "o'neil",
            "smith,",
            "neil-sm",
            "\"jane\" – zürich!",
        ] {
            assert!(finds(query, &texts), "{query} finds");
        }
        for query in [
            "ociete",
            "generale x",
            "042",
            "ane",
            "jane.doe@b",
            "acct_",
            "soc+",
            "@jane",
            "ag#",
            "*",
            "%",
        ] {
            assert!(!finds(query, &texts), "{query} does not find");
        }
    }

    #[test]
    fn signs_count_where_they_are_written() {
        for (query, found, others) in [
            (
                "test_",
                &["test_1", "my test_", "(test_2)"][..],
                &["test1", "test", "test-1", "mytest"][..],
            ),
            (
                "C++",
                &["C++ Builders", "Modern C++, Inc.", "(C++)"],
                &["C Builders", "Cosmos", "C+", "c+-"],
            ),
            ("C#", &["C# Ltd", "Visual C#"], &["C Ltd", "C", "C sharp"]),
            ("🍕", &["🍕", "Luigi's 🍕 Place", "Pizza🍕", "🍔🍕"], &["Pizza", "🍔"]),
            ("*", &["* Star", "Five *", "a*b"], &["Star", "-"]),
            ("%", &["100% Wool", "% Club"], &["100 Wool"]),
            ("100%", &["100% Wool"], &["100 Wool", "1000%"]),
            ("&", &["Smith & Sons", "H&M"], &["Smith and Sons"]),
            ("@acme", &["jane@acme.example", "@acme"], &["acme", "jane@x.acme"]),
            ("#42", &["Room #42"], &["Room 42"]),
            ("!!!", &["!!!"], &["x", "!"]),
            ("- --", &["- --"], &["-", "x - y"]),
            (".NET", &[".NET Users", "NET"], &["ETN"]),
            ("Müller & Söhne", &["Mueller Muller & Sohne"], &["Müller Söhne"]),
            ("❤️", &["I ❤ NY", "I ❤\u{fe0f} NY"], &["I NY"]),
            ("👩‍🚀", &["👩‍🚀 Club"], &["👩 Club"]),
        ] {
            for text in found {
                assert!(finds(query, &[text]), "{query} finds {text}");
            }
            for text in others {
                assert!(!finds(query, &[text]), "{query} does not find {text}");
            }
        }
    }

    #[test]
    fn a_query_of_nothing_but_blanks_matches_nothing() {
        assert!(ranges("").is_empty());
        for query in [" ", "\t", "\u{200b}", "\u{3000}\u{ad}"] {
            let ranges = ranges(query);
            assert!(
                !ranges.is_empty() && ranges.iter().all(|(from, to)| from >= to),
                "{query:?}: {ranges:?}"
            );
        }
    }

    #[test]
    fn any_part_of_a_run_without_blanks_is_found() {
        for (query, text) in [
            ("トヨタ", "株式会社トヨタ自動車"),
            ("自動車", "株式会社トヨタ自動車"),
            ("車", "株式会社トヨタ自動車"),
            ("ﾄﾖﾀ", "株式会社トヨタ自動車"),
            ("トヨタ 株式会社", "株式会社トヨタ自動車"),
            ("〇八", "二〇〇八年"),
            ("〇〇", "二〇〇八年"),
            ("北京", "中国(北京)有限公司"),
            ("ーヒ", "コーヒーショップ"),
            ("ヒー", "コーヒーショップ"),
            ("กรุงไทย", "ธนาคารกรุงไทย"),
            ("ຂອງ", "ທະນາຄານຂອງລາວ"),
            ("កម្ពុជា", "ធនាគារជាតិនៃកម្ពុជា"),
            ("ဘဏ်", "မြန်မာ့စီးပွားရေးဘဏ်"),
            ("ABC", "株式会社ABC商事"),
            ("abc商事", "株式会社ABC商事"),
            ("2020", "東京2020大会"),
            ("사", "주식회사 삼성 사업부"),
            ("खाना", "भारत खाना"),
        ] {
            let found = finds(query, &[text]);
            assert_eq!(found, query != "ーヒ", "{query} in {text}");
        }
        // Scripts with blanks are found by beginnings only.
        for (query, text) in
            [("회사", "주식회사"), ("रत", "भारत"), ("सती", "सरस्वती"), ("ваныч", "Иваныч")]
        {
            assert!(!finds(query, &[text]), "{query} in {text}");
        }
    }

    #[test]
    fn the_words_of_a_text_are_bounded() {
        let long: String = (0..200).filter_map(|i| char::from_u32(0x4e00 + i)).collect();
        let words = words([&*long, "end"]);
        assert_eq!(words.len(), MAX_WORDS + 1);
        assert!(
            words.iter().all(|word| word.chars().count() <= MAX_WORD_CHARS)
                && words.contains(&"end".to_owned())
        );
        // A name of 200 characters in a script with blanks has no more.
        assert_eq!(super::words([&*"a ".repeat(100)]).len(), 1);
    }

    #[test]
    fn no_word_looks_like_a_reference_to_a_person() {
        assert!(words(["@acme @ a@b @@x"]).iter().all(|word| !word.starts_with('@')));
        assert!(finds("@", &["a@b"]) && finds("@@", &["@@x"]) && !finds("@@", &["@x"]));
    }
}

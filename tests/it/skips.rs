//! A test that ends early calls `support::skip`, so that `.ci/run` notices a test that tested
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::support::sources;

/// A function of the tests, as rustfmt lays it out.
struct Function {
    /// `name`, or `Type::name` in an `impl`.
    name: String,
    is_test: bool,
    /// The lines from the one with the name to the closing brace.
    lines: Vec<String>,
}

/// All functions in a file; `Self` is replaced by the type.
fn functions(text: &str) -> Vec<Function> {
    let (mut functions, mut implemented, mut is_test) = (Vec::new(), String::new(), false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        if let Some(rest) = line.strip_prefix("impl") {
            let of = rest.rsplit(" for ").next().unwrap_or_default();
            of.split(['<', '{']).next().unwrap_or_default().trim().clone_into(&mut implemented);
        } else if line == "}" {
            implemented.clear();
        }
        is_test |= code.starts_with("#[test]") || code.starts_with("#[tokio::test");
        let words = ["pub ", "const ", "async "].iter();
        let Some(rest) =
            words.fold(code, |rest, word| rest.trim_start_matches(word)).strip_prefix("fn ")
        else {
            continue;
        };
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        let name = if implemented.is_empty() || indent.is_empty() {
            name.to_owned()
        } else {
            format!("{implemented}::{name}")
        };
        let end = format!("{indent}}}");
        let body = [line].into_iter().chain(lines.by_ref().take_while(|line| *line != end));
        let body = body.map(|line| line.replace("Self::", &format!("{implemented}::"))).collect();
        functions.push(Function { name, is_test: std::mem::take(&mut is_test), lines: body });
        if indent.is_empty() {
            implemented.clear();
        }
    }
    functions
}

/// The functions that some code calls: `name` or `Type::name`, but no methods of values.
fn called(code: &str) -> BTreeSet<&str> {
    let calls = code.match_indices('(').map(|(at, _)| {
        let before = &code[..at];
        let begins = before.rfind(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
        let path = &before[begins.map_or(0, |at| at + 1)..];
        if begins.is_some_and(|at| before[at..].starts_with('.')) {
            return "";
        }
        let Some((parent, name)) = path.rsplit_once("::") else { return path };
        let parent = parent.rsplit("::").next().unwrap_or_default();
        if parent.starts_with(char::is_uppercase) {
            &path[path.len() - parent.len() - "::".len() - name.len()..]
        } else {
            name
        }
    });
    calls.collect()
}

/// Whether a line returns nothing, without a comment behind it that says why.
fn returns(line: &str) -> bool {
    line.ends_with("return;") || line.contains("{ return }")
}

#[test]
fn every_test_that_ends_early_is_skipped_or_says_why() {
    let files = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")));
    let functions: Vec<_> =
        files.iter().flat_map(|file| functions(&std::fs::read_to_string(file).unwrap())).collect();
    let bodies: Vec<_> = functions.iter().map(|it| (it, it.lines[1..].join("\n"))).collect();
    // What calls `skip`, and what calls that.
    let mut skip = BTreeSet::from(["skip"]);
    loop {
        let more = bodies.iter().filter(|(it, body)| {
            !it.is_test && !skip.contains(&*it.name) && !called(body).is_disjoint(&skip)
        });
        let more: Vec<_> = more.map(|(it, _)| &*it.name).collect();
        if more.is_empty() {
            break;
        }
        skip.extend(more);
    }
    let (mut skipped, mut wrong) = (BTreeSet::new(), BTreeMap::new());
    for test in functions.iter().filter(|it| it.is_test) {
        for (number, line) in test.lines.iter().enumerate() {
            if !returns(line) {
                continue;
            }
            let begins = |line: &String| {
                ["let ", "if "].iter().any(|word| line.trim_start().starts_with(word))
            };
            let from = test.lines[..=number].iter().rposition(begins).unwrap_or_default();
            let statement = test.lines[from..=number].join("\n");
            if called(&statement).is_disjoint(&skip) {
                wrong.insert(&*test.name, statement);
            } else {
                skipped.insert(&*test.name);
            }
        }
    }
    assert!(wrong.is_empty(), "these end early without support::skip: {wrong:#?}");
    // That the search finds anything: about every fourth test needs more than Rust.
    assert!(skipped.len() > 100, "{skipped:?}");
}

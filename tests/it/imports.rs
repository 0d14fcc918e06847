//! The imports of `src/`: folders, and files beside them, import each other without circles.
//!
//! A node is a folder or a file directly in `src/`; `search.rs` and `search/` are one node. Code
//! that build.rs generates and `mod tests` at the ends of files do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// For each node the nodes that it imports, each with a file that does.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// Adds the imports of a file, or of the files below a folder. `place` is its path below `src/`.
fn collect(imports: &mut Imports, place: &str) {
    let place = place.trim_start_matches('/');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            collect(imports, &format!("{place}/{name}"));
        }
    } else if let Some(module) = place.strip_suffix(".rs") {
        let node = module.split('/').next().unwrap_or(module);
        let imported = imports.entry(node.to_owned()).or_default();
        for other in imported_by(&fs::read_to_string(path).unwrap()) {
            if other != node {
                imported.entry(other).or_insert_with(|| place.to_owned());
            }
        }
    }
}

/// The nodes that a source imports: the first names of its paths from `crate`.
fn imported_by(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<_> =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let paths = code.split("crate::").skip(1);
    let names = paths.flat_map(|path| path.strip_prefix('{').map_or(vec![path], elements));
    let first = |path: &str| -> String {
        path.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    names.map(first).filter(|name| !name.is_empty()).collect()
}

/// The elements of a list, up to the brace that closes it. They may have lists of their own.
fn elements(list: &str) -> Vec<&str> {
    let depths = || {
        let mut depth = 0;
        move |c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth
        }
    };
    let (mut closing, mut inside) = (depths(), depths());
    let end = list.find(|c| closing(c) < 0).unwrap_or(list.len());
    list[..end].split(|c| inside(c) == 0 && c == ',').collect()
}

/// Whether `from` reaches `to` by imports.
fn reaches(imports: &Imports, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(node) = open.pop() {
        if node == to {
            return true;
        }
        if seen.insert(node) {
            open.extend(imports.get(node).into_iter().flat_map(BTreeMap::keys).map(String::as_str));
        }
    }
    false
}

#[test]
fn no_circle_crosses_folders() {
    let mut imports = Imports::new();
    collect(&mut imports, "");
    imports.remove("lib");
    assert!(imports["guard"].contains_key("caller") && imports["people"].contains_key("db"));
    let mut circles = Vec::new();
    for (node, imported) in &imports {
        for (other, file) in imported {
            if reaches(&imports, other, node) {
                circles.push(format!("{node} imports {other} in src/{file}"));
            }
        }
    }
    assert!(
        circles.is_empty(),
        "these imports are parts of circles; move what is shared to a file that imports neither:\n{}",
        circles.join("\n")
    );
}

/// The lines of the table in ARCHITECTURE, from the top.
fn lines() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../docs/ARCHITECTURE.md");
    let table = page.split("```\n").nth(1).unwrap();
    let names = |line: &'static str| {
        let (_, names) = line.split_once(": ").unwrap_or(("", line));
        names.split(", ").collect()
    };
    table.lines().map(names).collect()
}

#[test]
fn the_documents_say_what_imports_what() {
    let mut imports = Imports::new();
    collect(&mut imports, "");
    imports.remove("lib");
    let lines = lines();
    let line = |node: &str| {
        let found = lines.iter().position(|line| line.contains(&node));
        found.unwrap_or_else(|| panic!("ARCHITECTURE does not say where {node} stands"))
    };
    for (node, imported) in &imports {
        for (other, file) in imported {
            let (here, there) = (line(node), line(other));
            let is_slice = lines[here].contains(&"accounts");
            assert!(
                there > here || (is_slice && there == here),
                "{node} imports {other} in src/{file}, which stands beside or above it in ARCHITECTURE"
            );
        }
    }
}

#[test]
fn imports_are_found() {
    let source = "\
        use crate::{a::{self, b::c}, d};\n\
        use crate::e; // crate::not\n\
        fn f() -> crate::g::H { $crate::i!() }\n\
        #[cfg(test)]\nmod tests { use crate::not; }";
    assert_eq!(Vec::from_iter(imported_by(source)), ["a", "d", "e", "g", "i"]);
}

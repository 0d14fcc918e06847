//! The README's calls give what the README prints.

use std::process::Command;

use crate::support::{shared, unique};

/// The `console` blocks: the command after `$ `, over several lines while they end in a backslash or inside quotes, and
/// what it prints.
fn blocks(readme: &str) -> Vec<(String, String)> {
    let blocks = readme.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .map(|block| {
            let mut command = String::new();
            let mut lines = block.strip_prefix("$ ").expect("a command").lines();
            for line in lines.by_ref() {
                command += line.trim_end_matches('\\');
                command.push(' ');
                if !line.ends_with('\\') && command.matches('\'').count().is_multiple_of(2) {
                    break;
                }
            }
            (command, lines.flat_map(|line| [line, "\n"]).collect())
        })
        .collect()
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    let mut parts = pattern.split('…');
    let Some(first) = parts.next() else { return false };
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || pattern.ends_with("…\n")
}

#[tokio::test]
async fn the_calls_of_the_readme_give_what_it_prints() {
    if !Command::new("grpcurl").arg("-version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: grpcurl is not installed");
        return;
    }
    let address = shared().address.to_string();
    let blocks = blocks(include_str!("../../README.md"));
    assert!(blocks.len() >= 5, "five calls, found {}", blocks.len());
    // The README speaks to the default tenant; here it has one of its own.
    let header = format!("grpcurl -H 'x-tenant-id: readme-{}'", unique());
    for (command, expected) in blocks {
        let command = command.replace("127.0.0.1:50051", &address).replacen("grpcurl", &header, 1);
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(matches(&expected, &printed), "{command}\nprinted\n{printed}\nexpected\n{expected}");
    }
}

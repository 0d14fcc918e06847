//! The README's commands give what the README prints, one after the other as a newcomer runs them.

use std::process::Command;

use crate::support::{
    fresh_database,
    process::{Service, run},
    real_server, skip,
};

const README: &str = include_str!("../../README.md");

/// The `console` blocks: the command after `$ `, over several lines while they end in a backslash
/// or inside quotes, and what it prints.
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

const PROGRAM: &str = env!("CARGO_BIN_EXE_customer-accounts");

#[tokio::test]
async fn the_calls_of_the_readme_give_what_it_prints() {
    if !Command::new("grpcurl").arg("-version").output().is_ok_and(|output| output.status.success())
    {
        skip("grpcurl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let url = match real_server() {
        Some(server) => fresh_database(&server).await,
        None => String::new(),
    };
    let environment = [("CUSTOMER_ACCOUNTS_DATA_DIR", &*data), ("DATABASE_URL", &*url)];
    let (believing, with_tokens) = README.split_once("## Who may call").unwrap();
    let service = Service::start(&[], &environment).await;
    give_what_they_print(believing, 8, &service, &environment);
    service.terminate();
    service.ended().await;
    // The commands of the block that has `serve`, on an address of the test's.
    let block = with_tokens.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let block = block.replace("\\\n", " ").replace("./data", &data);
    let commands = block.lines().map(|line| {
        line.strip_prefix("cargo run -- ").unwrap().split_whitespace().collect::<Vec<_>>()
    });
    let [token, serve] = &commands.collect::<Vec<_>>()[..] else { panic!("two commands: {block}") };
    let made = run(token, &environment).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let service = Service::start(serve, &environment).await;
    give_what_they_print(with_tokens, 1, &service, &environment);
}

fn give_what_they_print(
    readme: &str,
    at_least: usize,
    service: &Service,
    environment: &[(&str, &str)],
) {
    let address = service.address.to_string();
    let blocks = blocks(readme);
    assert!(blocks.len() >= at_least, "{} blocks", blocks.len());
    for (command, expected) in blocks {
        let command =
            command.replace("127.0.0.1:50051", &address).replace("cargo run --quiet --", PROGRAM);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command])
            .envs(environment.iter().copied())
            .env("CUSTOMER_ACCOUNTS_LISTEN", &address);
        let output = shell.output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            matches(&expected, &printed),
            "{command}\nprinted\n{printed}\nexpected\n{expected}"
        );
    }
}

//! What identity costs a call: `cargo bench --bench identity`.
//!
//! Measures [`Identity`], which the guard uses, on the headers of a call. Development identity only
//! reads headers and is the least there is. A remembered token saves its verification.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::{hint::black_box, time::Duration};

use clap::Parser as _;
use customer_accounts::{
    caller::{Identity, development_key},
    config::{Cli, Command, Config},
    policy::Policies,
};
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;

/// The number of callers. Each has a token of its own, and all tokens are remembered.
const CALLERS: usize = 5000;
const CALLS: usize = 1_000_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let tokens: Vec<_> = (0..CALLERS).map(|caller| token(folder, caller)).collect();
    println!("{CALLERS} callers, tokens of {} bytes, ES256", tokens[0][AUTHORIZATION].len());
    let issuer = format!("{}={folder}/development-jwks.json", development_key::ISSUER);
    let configured =
        config(&["--token-issuer", &issuer, "--token-audience", development_key::AUDIENCE]);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let development =
            time(&Identity::configured(&config(&[]).tokens).unwrap(), &[headers()], CALLS).await;
        report("development identity", development, development);
        let identity = Identity::configured(&configured.tokens).unwrap();
        report(
            "token, first call of each caller (verified)",
            time(&identity, &tokens, CALLERS).await,
            development,
        );
        report(
            "token, one caller (remembered)",
            time(&identity, &tokens[..1], CALLS).await,
            development,
        );
        report(
            "token, all callers in turn (remembered)",
            time(&identity, &tokens, CALLS).await,
            development,
        );
    });
}

/// The mean time of one call, over this number of calls with these headers in turn.
async fn time(identity: &Identity, headers: &[HeaderMap], calls: usize) -> Duration {
    let policies = Policies::read().unwrap();
    let policy = policies.get("/accounts.v1.AccountService/GetAccount").unwrap();
    let deadline = Instant::now() + Duration::from_hours(1);
    let began = Instant::now();
    for headers in headers.iter().cycle().take(calls) {
        black_box(identity.caller(black_box(headers), policy, deadline).await.unwrap());
    }
    began.elapsed() / u32::try_from(calls).unwrap()
}

fn report(what: &str, time: Duration, floor: Duration) {
    println!(
        "{what:45} {:>8} ns a call {:>7.1} × development",
        time.as_nanos(),
        time.as_secs_f64() / floor.as_secs_f64()
    );
}

fn config(arguments: &[&str]) -> Config {
    Cli::parse_from(["customer-accounts"].iter().chain(arguments)).config
}

/// The headers of a caller with a token.
fn token(folder: &str, caller: usize) -> HeaderMap {
    let subject = format!("{caller:08}-86f0-4b1d-9c9a-2f1d7f3f6a55");
    let cli =
        Cli::parse_from(["customer-accounts", "token", "--key-dir", folder, "--subject", &subject]);
    let Some(Command::Token(options)) = cli.command else { unreachable!("the command is `token`") };
    let token =
        development_key::make(&options, &cli.config.tokens, &cli.config.data_dir).unwrap().token;
    let mut headers = headers();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

/// The headers of every call of a gRPC client.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "grpc-bench/1")]
    {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

//! Measures the service beside gRPC and PostgreSQL alone; `docs/PERFORMANCE.md` says how and why.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement that cannot go on ends, and its numbers are small"
)]

mod baselines;
mod cases;
mod data;
mod import;
mod load;
mod postgres;
mod report;
#[path = "../../src/schema.rs"]
mod schema;
mod server;
mod statements;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use clap::{Parser, Subcommand};
use customer_accounts_client::{Client, tonic::transport::Endpoint, v1::GetAccountRequest};
use prost::Message as _;

use crate::{
    baselines::Baseline,
    cases::{Beside, CASES, CONNECTIONS, Case, Target},
    data::{Data, EMPTY, tenant},
    load::{Call, Sample},
    postgres::Postgres,
    report::{Row, median, median_of},
    server::Server,
    statements::Script,
};

/// Measures the service beside gRPC and PostgreSQL alone.
#[derive(Parser)]
struct Arguments {
    /// Little data and one short round: only to see that everything works.
    #[arg(long)]
    smoke: bool,
    /// A tenant of 1,000,000 accounts.
    #[arg(long)]
    large: bool,
    /// Only cases with this in their names.
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds for each case and number in flight, in each round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds, whose medians are shown.
    #[arg(long)]
    rounds: Option<usize>,
    /// The service to measure; by default it is built.
    #[arg(long, value_name = "PATH")]
    service: Option<PathBuf>,
    /// Another build of the service, which takes turns with the first.
    #[arg(long, value_name = "PATH")]
    compare: Option<PathBuf>,
    /// The folder that gets the table and the plot.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    baseline: Option<Serve>,
}

/// The baselines are processes of their own.
#[derive(Subcommand)]
enum Serve {
    #[command(hide = true)]
    Echo { file: PathBuf },
    #[command(hide = true)]
    Plain { url: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.baseline {
        Some(Serve::Echo { file }) => Baseline::echo(file).serve().await,
        Some(Serve::Plain { url }) => Baseline::plain(url).await.serve().await,
        None => {
            if let Err(error) = measure(&arguments).await {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// A server that is measured, and the calls that it gets.
struct Measured {
    server: Server,
    target: Arc<Target>,
}

impl Measured {
    async fn sample(
        &self,
        postgres: &Postgres,
        call: &Call,
        in_flight: usize,
        time: Duration,
    ) -> Result<Sample, String> {
        let cpu = || (postgres::cpu(self.server.pid()), postgres.cpu());
        let before = cpu();
        let began = std::time::Instant::now();
        let sample = load::run(call, in_flight, time).await?;
        let calls = (sample.rate * began.elapsed().as_secs_f64()).max(1.0);
        let after = cpu();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / calls;
        let (server_cpu, postgres_cpu) = (
            each(after.0.checked_sub(before.0).unwrap()),
            each(after.1.checked_sub(before.1).unwrap()),
        );
        Ok(Sample { server_cpu, postgres_cpu, ..sample })
    }
}

/// Everything that runs during a measurement.
struct Bench {
    service: Measured,
    compared: Option<Measured>,
    echo: Measured,
    plain: Measured,
    data: Data,
    /// Whether 1 and 64 in flight are enough.
    smoke: bool,
    /// Last, because fields are dropped in order: the servers use it.
    postgres: Postgres,
}

async fn measure(arguments: &Arguments) -> Result<(), String> {
    let binary = arguments.service.clone().map_or_else(build, Ok)?;
    let rounds = arguments.rounds.unwrap_or(if arguments.smoke { 1 } else { 3 });
    let seconds = arguments.seconds.unwrap_or(if arguments.smoke { 0.1 } else { 0.8 });
    let time = Duration::from_secs_f64(seconds);
    let bench = Bench::start(arguments, &binary).await?;

    let chosen: Vec<_> = CASES.iter().filter(|case| case.name.contains(&arguments.only)).collect();
    let mut rows = Vec::new();
    for case in chosen {
        let more = bench.case(case, rounds, time).await?;
        print!("{}", report::table(&more, "").split("|---|\n").nth(1).unwrap_or_default());
        rows.extend(more);
    }
    if "WatchActivities under write load".contains(&arguments.only) {
        let call = watch::WRITERS;
        let target = bench.service.target.clone();
        let sample = watch::run(target, time.max(Duration::from_secs(1))).await?;
        let memory = postgres::peak_memory(bench.service.server.pid());
        let name = "WatchActivities, commit to receipt".into();
        let none = [None; 4];
        rows.push(Row { name, in_flight: call, sample, ratios: none, p50_to_plain: None, memory });
    }
    if "ImportAccounts".contains(&arguments.only) {
        let accounts = if arguments.smoke { 2 * import::BATCH } else { 100_000 };
        rows.push(bench.import(rounds, accounts).await?);
    }
    let size = bench.data.main;
    let head = format!(
        "{} accounts, {} people and {} organizations in one tenant, {} accounts in each of 64 \
         others. {}, fsync on. Medians of {rounds} rounds of {seconds} s.",
        size.accounts,
        size.people,
        size.organizations,
        bench.data.other.accounts,
        bench.postgres.version
    );
    let table = report::table(&rows, &head);
    println!("{table}");
    let everything = arguments.only.is_empty() && !arguments.smoke;
    let by_default = everything.then(|| root().join("docs/benchmark"));
    if let Some(folder) = arguments.output.clone().or(by_default) {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("results.md"), format!("# Results\n\n{table}")).unwrap();
        let names = [
            "echo",
            "plain",
            "GetAccount, one tenant",
            "GetAccount, 64 tenants in turn",
            "CheckMembership",
            "CreateAccount",
        ];
        let plot = report::plot(&rows, &names, "calls a second", "calls in flight");
        std::fs::write(folder.join("results.svg"), plot).unwrap();
    }
    Ok(())
}

impl Bench {
    async fn start(arguments: &Arguments, binary: &Path) -> Result<Self, String> {
        let data = Data::new(arguments.smoke, arguments.large);
        let programs = std::env::var_os("POSTGRES_BIN").map(PathBuf::from);
        let postgres = Postgres::start(programs).await;
        eprintln!("{}: loading", postgres.version);
        server::migrate(binary, &postgres).await;
        data.load(&postgres).await;
        let keys = tempfile::tempdir().unwrap();
        let tokens: Vec<_> =
            (0..=EMPTY).map(|n| server::token(binary, keys.path(), &tenant(n))).collect();
        // Continues where no account is yet.
        let next = Arc::new(AtomicU64::new(0));
        let service =
            measured(server::serve(binary, &postgres, keys.path()), &tokens, data, &next).await?;
        let compared = match &arguments.compare {
            Some(other) => {
                let server = server::serve(other, &postgres, keys.path());
                Some(measured(server, &tokens, data, &next).await?)
            }
            None => None,
        };
        // The echo answers with an account that the service has answered.
        let first = client(&service.server, &tokens[0]).await?;
        let request = GetAccountRequest { account_id: data::account_id(7) };
        let account = first.accounts().get_account(request).await.map_err(|e| e.to_string())?;
        let file = keys.path().join("account");
        std::fs::write(&file, account.into_inner().account.unwrap().encode_to_vec()).unwrap();
        let own = std::env::current_exe().unwrap();
        let baseline =
            |name: &str, argument: &str| Server::start(Command::new(&own).args([name, argument]));
        let echo = baseline("echo", file.to_str().unwrap());
        let plain = baseline("plain", &postgres.url("postgres"));
        let echo = measured_as(echo, &tokens, data, &next, false).await?;
        let plain = measured_as(plain, &tokens, data, &next, false).await?;
        eprintln!("loaded: measuring");
        Ok(Self { service, compared, echo, plain, data, smoke: arguments.smoke, postgres })
    }

    /// Measures a case with what is beside it, which takes turns with it.
    async fn case(&self, case: &Case, rounds: usize, time: Duration) -> Result<Vec<Row>, String> {
        let failed = |error| format!("{}: {error}", case.name);
        let call = (case.call)(self.service.target.clone());
        load::run(&call, 8, time / 4).await.map_err(failed)?; // warms caches and plans
        let get = CASES[0].call;
        let everything = case.beside == Beside::Everything;
        let beside: [Option<(&Measured, Call)>; 3] = [
            everything.then(|| (&self.echo, get(self.echo.target.clone()))),
            everything.then(|| (&self.plain, get(self.plain.target.clone()))),
            self.compared.as_ref().map(|it| (it, (case.call)(it.target.clone()))),
        ];
        let script = if case.beside == Beside::Nothing {
            None
        } else {
            Some(self.script(&call).await.map_err(failed)?)
        };
        let mut rows = Vec::new();
        let smoke = self.smoke;
        let levels = case.levels.iter().copied().filter(|n| !smoke || *n == 1 || *n == 64);
        for in_flight in levels {
            let mut of = vec![Vec::new(); 4];
            let mut statements = Vec::new();
            for _ in 0..rounds {
                let it = self.service.sample(&self.postgres, &call, in_flight, time);
                of[0].push(it.await.map_err(failed)?);
                for (at, beside) in beside.iter().enumerate() {
                    let Some((server, call)) = beside else { continue };
                    let it = server.sample(&self.postgres, call, in_flight, time);
                    of[at + 1].push(it.await.map_err(failed)?);
                }
                // More clients than connections would change nothing.
                if let Some(script) = script.as_ref().filter(|_| in_flight <= 1 || in_flight == 64)
                {
                    statements.push(script.run(&self.postgres, in_flight, time));
                }
            }
            let ratio = |other: &[Sample], field: fn(&Sample) -> f64| {
                let pairs = of[0].iter().zip(other).map(|(own, other)| field(own) / field(other));
                (!other.is_empty()).then(|| median(pairs.collect()))
            };
            let rate = |s: &Sample| s.rate;
            let ratios = [
                ratio(&of[1], rate),
                ratio(&of[2], rate),
                ratio(&statements, rate),
                ratio(&of[3], rate),
            ];
            let row = |name: &str, samples: &[Sample], memory: f64| Row {
                name: name.into(),
                in_flight,
                sample: median_of(samples),
                ratios: [None; 4],
                p50_to_plain: None,
                memory,
            };
            let memory = postgres::peak_memory(self.service.server.pid());
            let own = row(case.name, &of[0], memory);
            rows.push(Row { ratios, p50_to_plain: ratio(&of[2], |s| s.p50), ..own });
            // The baselines of GetAccount are shown once.
            if case.name == CASES[0].name {
                for (name, at, server) in [("echo", 1, &self.echo), ("plain", 2, &self.plain)] {
                    rows.push(row(name, &of[at], postgres::peak_memory(server.server.pid())));
                }
            }
        }
        Ok(rows)
    }

    /// Imports accounts, and takes turns with the bare INSERT, which stands for `pgbench`.
    async fn import(&self, rounds: usize, accounts: u64) -> Result<Row, String> {
        let (mut samples, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let cpu = || (postgres::cpu(self.service.server.pid()), self.postgres.cpu());
            let before = cpu();
            let sample = import::run(self.service.target.clone(), accounts).await?;
            let after = cpu();
            let each = |time: Duration| time.as_secs_f64() * 1e6 / accounts as f64;
            let (server_cpu, postgres_cpu) = (
                each(after.0.checked_sub(before.0).unwrap()),
                each(after.1.checked_sub(before.1).unwrap()),
            );
            samples.push(Sample { server_cpu, postgres_cpu, ..sample });
            let bare = import::bare(&self.service.target, &self.postgres, accounts).await;
            eprintln!("ImportAccounts: {:.0} accounts/s, bare INSERT {bare:.0}", sample.rate);
            ratios.push(sample.rate / bare);
        }
        Ok(Row {
            name: format!("ImportAccounts, accounts a second in batches of {}", import::BATCH),
            in_flight: 1,
            sample: median_of(&samples),
            ratios: [None, None, Some(median(ratios)), None],
            p50_to_plain: None,
            memory: postgres::peak_memory(self.service.server.pid()),
        })
    }

    /// The statements of one call of a case.
    async fn script(&self, call: &Call) -> Result<Script, String> {
        let sql = self.postgres.sql("bench").await;
        statements::log(&sql, true).await;
        let since = statements::position(&self.postgres);
        call(0).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let script = Script::read(&self.postgres, &sql, since, self.data.main.accounts).await;
        statements::log(&sql, false).await;
        Ok(script)
    }
}

async fn client(server: &Server, token: &str) -> Result<Client, String> {
    let endpoint = Endpoint::from_shared(server.address.clone()).unwrap().tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    Ok(Client::new(channel).with_token(token).unwrap())
}

async fn measured(
    server: Server,
    tokens: &[String],
    data: Data,
    next: &Arc<AtomicU64>,
) -> Result<Measured, String> {
    measured_as(server, tokens, data, next, true).await
}

async fn measured_as(
    server: Server,
    tokens: &[String],
    data: Data,
    next: &Arc<AtomicU64>,
    lists: bool,
) -> Result<Measured, String> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let first = Endpoint::from_shared(server.address.clone()).unwrap().tcp_nodelay(true);
        let channel = first.connect().await.map_err(|error| error.to_string())?;
        let of = |token: &String| Client::new(channel.clone()).with_token(token).unwrap();
        clients.push(tokens.iter().map(of).collect());
    }
    let mut target = Target::new(clients, data, next.clone());
    if lists {
        target.walk().await?;
    }
    Ok(Measured { server, target: Arc::new(target) })
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Builds the service as it is deployed.
fn build() -> Result<PathBuf, String> {
    let arguments = ["build", "--release", "--locked", "--no-default-features"];
    let built = Command::new("cargo").args(arguments).current_dir(root()).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("the service does not build".into());
    }
    Ok(root().join("target/release/customer-accounts"))
}

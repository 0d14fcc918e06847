//! How the service starts, says how it is, describes itself, and ends; and the other commands.

use std::{path::Path, time::Duration};

use customer_accounts::{
    proto::{Account, GetAccountRequest, ListAccountTypesRequest, UpdateAccountRequest},
    server::{LIVENESS, READINESS},
};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorProto;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::support::{
    As, Tenant, account, connect, eventually, fresh_database,
    process::{Service, plain_command, run},
    real_database, real_server, shared, sql, waiting_for_locks,
};

const SERVICES: [&str; 11] = [
    "accounts.v1.AccountService",
    "accounts.v1.AccountTypeService",
    "accounts.v1.ActivityService",
    "accounts.v1.CommerceService",
    "accounts.v1.ContractService",
    "accounts.v1.MembershipService",
    "accounts.v1.OpportunityService",
    "accounts.v1.OrganizationService",
    "accounts.v1.PersonService",
    "accounts.v1.PortfolioService",
    "accounts.v1.TenantService",
];
/// Room for a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_process_its_readiness_and_every_service_are_healthy() {
    let mut health = HealthClient::new(connect(shared().address).await);
    for service in ["", LIVENESS, READINESS].into_iter().chain(SERVICES) {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request.clone()).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
        let mut watch = health.watch(request).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, ServingStatus::Serving, "{service:?}");
    }
    let unknown =
        health.check(HealthCheckRequest { service: "accounts.v1.NoService".into() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

/// What reflection tells: the services, and the descriptors as `grpcurl` puts them together.
struct Described {
    services: Vec<String>,
    pool: DescriptorPool,
}

/// The details of errors, which clients and proxies decode.
const DETAILS: [&str; 5] =
    ["ErrorInfo", "BadRequest", "PreconditionFailure", "ResourceInfo", "RetryInfo"];

/// A `FileDescriptorSet` whose files stay as they came, with options that the Rust types do not
/// know.
#[derive(prost::Message)]
struct Files {
    #[prost(bytes, repeated, tag = "1")]
    files: Vec<Vec<u8>>,
}

macro_rules! describe {
    ($version:ident) => {
        async fn $version(channel: Channel) -> Result<Described, Status> {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest as Ask,
                server_reflection_response::MessageResponse as Answer,
            };
            let mut client = ServerReflectionClient::new(channel);
            let mut ask = async |question: Ask| {
                let request = ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(question),
                };
                let mut answers =
                    client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
                Ok::<_, Status>(
                    answers
                        .message()
                        .await?
                        .expect("an answer")
                        .message_response
                        .expect("a message"),
                )
            };
            let Answer::ListServicesResponse(list) = ask(Ask::ListServices(String::new())).await?
            else {
                panic!("no list")
            };
            let services: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            let symbols = services
                .iter()
                .map(String::as_str)
                .chain(["google.rpc.ErrorInfo", "google.rpc.BadRequest"]);
            let mut wanted: Vec<_> =
                symbols.map(|symbol| Ask::FileContainingSymbol(symbol.to_owned())).collect();
            let (mut names, mut files) = (Vec::new(), Vec::new());
            while let Some(question) = wanted.pop() {
                let asked = format!("{question:?}");
                let Answer::FileDescriptorResponse(found) = ask(question).await? else {
                    panic!("no answer to {asked}")
                };
                for bytes in found.file_descriptor_proto {
                    let file = FileDescriptorProto::decode(&*bytes).unwrap();
                    if !names.contains(&file.name) {
                        wanted.extend(file.dependency.into_iter().map(Ask::FileByFilename));
                        names.push(file.name);
                        files.push(bytes);
                    }
                }
            }
            Ok(Described {
                services,
                pool: DescriptorPool::decode(&*Files { files }.encode_to_vec()).unwrap(),
            })
        }
    };
}
describe!(v1);
describe!(v1alpha);

#[tokio::test]
async fn both_versions_of_reflection_describe_everything() {
    let channel = connect(shared().address).await;
    for (version, described) in
        [("v1", v1(channel.clone()).await), ("v1alpha", v1alpha(channel.clone()).await)]
    {
        let Described { mut services, pool } = described.unwrap();
        services.sort();
        let mut expected: Vec<_> = SERVICES.map(str::to_owned).into();
        expected.push("grpc.health.v1.Health".into());
        expected.push(format!("grpc.reflection.{version}.ServerReflection"));
        assert_eq!(services, expected, "{version}");
        let policy =
            pool.get_extension_by_name("accounts.v1.policy").expect("the option is described");
        for service in SERVICES {
            for method in pool.get_service_by_name(service).unwrap().methods() {
                assert!(
                    method.options().has_extension(&policy),
                    "{version}: {} has no policy",
                    method.full_name()
                );
            }
        }
        for detail in DETAILS {
            assert!(
                pool.get_message_by_name(&format!("google.rpc.{detail}")).is_some(),
                "{version}: {detail}"
            );
        }
    }
}

#[tokio::test]
async fn descriptors_are_written_to_a_file_and_to_standard_output() {
    let folder = tempfile::Builder::new().prefix("ca-it").tempdir().unwrap();
    let file = folder.path().join("accounts.binpb");
    let written = run(&["descriptors", file.to_str().unwrap()], &[]).await;
    assert_eq!((written.code, &*written.stdout), (Some(0), ""), "{written:?}");
    let bytes = std::fs::read(&file).unwrap();
    let pool = DescriptorPool::decode(&*bytes).unwrap();
    for service in SERVICES {
        assert!(pool.get_service_by_name(service).is_some(), "{service}");
    }
    assert!(pool.get_extension_by_name("accounts.v1.policy").is_some());
    for detail in DETAILS {
        assert!(pool.get_message_by_name(&format!("google.rpc.{detail}")).is_some(), "{detail}");
    }
    // Programs such as Envoy read a file only after those that it imports, and each once.
    let mut seen = Vec::new();
    for file in Files::decode(&*bytes).unwrap().files {
        let file = FileDescriptorProto::decode(&*file).unwrap();
        assert!(!seen.contains(&file.name), "{:?} stands twice", file.name);
        for import in file.dependency {
            assert!(seen.contains(&Some(import.clone())), "{import} is behind {:?}", file.name);
        }
        seen.push(file.name);
    }

    let output = plain_command(&["descriptors", "-"], &[]).output().await.unwrap();
    assert!(output.status.success() && output.stdout == bytes);
    let refused = run(&["descriptors", "no-such-folder/accounts.binpb"], &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.starts_with("error: no-such-folder/accounts.binpb: No such file"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let service = Service::fresh(&["--reflection", "false"], &[]).await;
    let channel = service.channel().await;
    for described in [v1(channel.clone()).await, v1alpha(channel.clone()).await] {
        assert_eq!(described.err().map(|status| status.code()), Some(Code::Unimplemented));
    }
    Tenant::on(channel)
        .account_types()
        .list_account_types(ListAccountTypesRequest::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_calls_under_way_are_answered_whatever_else_is_open() {
    const DEADLINE: Duration = Duration::from_secs(30);
    let url = real_database("in part: a lock holds a call").await;
    let (arguments, folder) = (["--shutdown-deadline", "30s"], tempfile::tempdir().unwrap());
    let service = match &url {
        Some(url) => Service::on(url, &arguments).await,
        None => Service::embedded(folder.path(), &arguments).await,
    };
    let address = service.address;
    let _silent = TcpStream::connect(address).await.unwrap();
    let _idle = service.channel().await;
    let mut watches = Vec::new();
    for name in ["", READINESS, SERVICES[0]] {
        let mut health = HealthClient::new(service.channel().await);
        let mut watch =
            health.watch(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, ServingStatus::Serving);
        watches.push(watch);
    }
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let held = match &url {
        Some(url) => Some(hold(url, &tenant).await),
        None => None,
    };

    let signalled = Instant::now();
    service.terminate();
    for watch in &mut watches {
        assert_eq!(next(watch).await, ServingStatus::NotServing);
    }
    eventually(MARGIN, "no new connections", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    if let Some((lock, call)) = held {
        assert!(!call.is_finished());
        lock.batch_execute("COMMIT").await.unwrap();
        call.await.unwrap().unwrap();
    }
    let status = service.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(signalled.elapsed() < DEADLINE / 3, "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn a_call_that_never_ends_does_not_hold_the_process_longer_than_the_deadline() {
    let Some(url) = real_database("a lock holds a call").await else { return };
    let arguments =
        ["--shutdown-deadline", "2s", "--default-deadline", "1h", "--max-deadline", "1h"];
    let service = Service::on(&url, &arguments).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let (_lock, call) = hold(&url, &tenant).await;
    let signalled = Instant::now();
    service.terminate();
    assert_eq!(service.ended().await.code(), Some(0));
    let took = signalled.elapsed();
    assert!(
        took >= Duration::from_millis(1900) && took < Duration::from_secs(2) + MARGIN,
        "{took:?}"
    );
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn sigterm_ends_a_service_that_is_still_waiting_for_its_database() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/none", listener.local_addr().unwrap());
    let mut child =
        plain_command(&["--listen", "127.0.0.1:0"], &[("DATABASE_URL", &url)]).spawn().unwrap();
    // A server that takes connections and never says a word.
    let _connection = timeout(Duration::from_secs(30), listener.accept()).await.unwrap().unwrap();
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = timeout(Duration::from_secs(10), child.wait()).await.expect("ends").unwrap();
    assert!(status.code().is_some(), "in order, not by the signal: {status:?}");
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_told_that_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let first = Service::embedded(folder.path(), &[]).await;
    for command in ["serve", "check", "migrate"] {
        let second = run(&["--listen", "127.0.0.1:0", "--data-dir", data, command], &[]).await;
        assert_eq!(second.code, Some(1), "{second:?}");
        assert!(
            second.stderr.contains("in use") && second.stderr.contains("--data-dir"),
            "{second:?}"
        );
    }
    let tenant = Tenant::on(first.channel().await);
    tenant.account_types().list_account_types(ListAccountTypesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn without_credentials_only_loopback_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("never").to_str().unwrap().to_owned();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"] {
        let refused = run(&["--listen", address, "--data-dir", &data], &[]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("--listen") && refused.stderr.contains("loopback"),
            "{refused:?}"
        );
        assert!(!Path::new(&data).exists(), "refused before anything is made");
    }
}

#[tokio::test]
async fn a_bad_option_is_named() {
    for (option, value) in [
        ("--listen", "nonsense"),
        ("--pool-size", "0"),
        ("--pool-size", "many"),
        ("--pool-wait", "2s"),
        ("--pool-max-lifetime", "forever"),
        ("--max-calls", "0"),
        ("--max-streams", "0"),
        ("--max-watches", "0"),
        ("--answer-timeout", "0s"),
        ("--max-connections-per-peer", "0"),
        ("--max-connection-idle", "0s"),
        ("--max-connection-age", "soon"),
        ("--max-connection-grace", "0s"),
        ("--max-anonymous-calls", "0"),
        ("--min-activity-retention", "0"),
        ("--jwks-max-waiting", "0"),
        ("--watch-poll-interval", "often"),
        ("--max-message-bytes", "4MB"),
        ("--default-deadline", "5"),
        ("--max-deadline", "-1s"),
        ("--shutdown-deadline", "5 s"),
        ("--reflection", "perhaps"),
        ("--log-format", "xml"),
    ] {
        let refused = run(&[&format!("{option}={value}")], &[]).await;
        assert_eq!(refused.code, Some(2), "{option} {value}: {refused:?}");
        assert!(
            refused.stderr.contains(option) && refused.stderr.contains(value),
            "{option} {value}: {refused:?}"
        );
        // An environment variable is refused with the name of its option.
        let variable = format!(
            "CUSTOMER_ACCOUNTS_{}",
            option.trim_start_matches('-').replace('-', "_").to_uppercase()
        );
        let refused = run(&[], &[(&variable, value)]).await;
        assert_eq!(refused.code, Some(2), "{variable}={value}: {refused:?}");
        assert!(refused.stderr.contains(option), "{variable}={value}: {refused:?}");
    }
    let unknown = run(&["--no-such-option"], &[]).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("--no-such-option"), "{unknown:?}");
    for (arguments, name) in [
        (["--log", "customer_accounts=loud"], "--log"),
        (["--database-url", "mysql://u:hunter2@h/db"], "DATABASE_URL"),
    ] {
        let refused = run(&arguments, &[]).await;
        assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
        assert!(refused.stderr.contains(name), "{refused:?}");
        assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
    }
}

#[tokio::test]
async fn an_address_in_use_and_a_missing_database_are_told() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(&["--listen", &address], &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("--listen") && refused.stderr.contains(&address),
        "{refused:?}"
    );
    for command in ["serve", "check", "migrate"] {
        let refused = run(
            &["--listen", "127.0.0.1:0", command],
            &[("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db")],
        )
        .await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("database") && !refused.stderr.contains("hunter2"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn healthcheck_asks_a_running_service() {
    let service = Service::fresh(&[], &[]).await;
    let address = service.address.to_string();
    let healthy = run(&["healthcheck", "--listen", &address], &[]).await;
    assert_eq!(
        (healthy.code, healthy.stdout.trim()),
        (Some(0), "readiness: SERVING"),
        "{healthy:?}"
    );
    let alive = run(&["healthcheck", "liveness", "--listen", &address], &[]).await;
    assert_eq!((alive.code, alive.stdout.trim()), (Some(0), "liveness: SERVING"), "{alive:?}");
    service.terminate();
    service.ended().await;
    let gone = run(&["healthcheck"], &[("CUSTOMER_ACCOUNTS_LISTEN", &address)]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains(&address), "{gone:?}");
}

#[tokio::test]
async fn a_service_that_ends_is_alive_and_not_ready() {
    let service = Service::fresh(&["--shutdown-delay", "15s"], &[]).await;
    let address = service.address.to_string();
    service.terminate();
    let not_ready = eventually(Duration::from_secs(10), "not ready", async || {
        let asked = run(&["healthcheck", "--listen", &address], &[]).await;
        (asked.code != Some(0)).then_some(asked)
    });
    let not_ready = not_ready.await;
    assert_eq!(
        (not_ready.code, not_ready.stdout.trim()),
        (Some(1), "readiness: NOT_SERVING"),
        "{not_ready:?}"
    );
    let alive = run(&["healthcheck", "liveness", "--listen", &address], &[]).await;
    assert_eq!((alive.code, alive.stdout.trim()), (Some(0), "liveness: SERVING"), "{alive:?}");
}

#[tokio::test]
async fn seed_fills_the_demo_tenant_and_can_be_run_again() {
    let service = Service::fresh(&[], &[]).await;
    let address = service.address.to_string();
    let seeded = run(&["seed", "--listen", &address], &[]).await;
    assert_eq!(seeded.code, Some(0), "{seeded:?}");
    assert!(seeded.stdout.contains("33 resources created, 0 already there"), "{seeded:?}");
    let channel = service.channel().await;
    let caller = As {
        tenant: "demo".into(),
        actor: "tester".into(),
        roles: "viewer".into(),
        tenant_wide: true,
    };
    let tenant = Tenant { caller, channel };

    let types = tenant
        .account_types()
        .list_account_types(ListAccountTypesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut names: Vec<_> =
        types.account_types.iter().map(|account_type| account_type.display_name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Enterprise", "Partner", "Premium", "Reseller", "SMB", "Trial"]);
    let premium = types
        .account_types
        .iter()
        .find(|account_type| account_type.display_name == "Premium")
        .unwrap();
    let get = async |id: &str| {
        let request = GetAccountRequest { account_id: id.into() };
        tenant.accounts().get_account(request).await.unwrap().into_inner().account.unwrap()
    };
    let converted = get("acct-globex").await;
    assert_eq!(converted.account_type_id, premium.account_type_id);
    let acme = get("acct-acme").await;
    assert!(acme.is_primary && acme.primary_contact.is_some() && acme.billing_address.is_some());
    let mut offices = Vec::new();
    for id in ["acct-acme-emea", "acct-acme-amer", "acct-acme-apac"] {
        offices.push(get(id).await.organization_id);
    }
    let request = customer_accounts::proto::ListOrganizationsRequest {
        parent_id: acme.organization_id,
        ..Default::default()
    };
    let below = tenant
        .organizations()
        .list_organizations(request)
        .await
        .unwrap()
        .into_inner()
        .organizations;
    let mut below: Vec<_> =
        below.into_iter().map(|organization| organization.organization_id).collect();
    below.sort();
    offices.sort();
    assert_eq!(below, offices, "each regional office lies below Acme Corp and has its account");

    let again = run(&["seed", "--listen", &address], &[]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("0 resources created, 33 already there"), "{again:?}");
    assert_eq!(get("acct-globex").await, converted, "what was there stays as it was");
    service.terminate();
    service.ended().await;
    let gone = run(&["seed", "--listen", &address], &[]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
}

#[tokio::test]
async fn migrate_and_check_tell_what_the_database_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let url = match real_server() {
        Some(server) => fresh_database(&server).await,
        None => String::new(),
    };
    let environment = if url.is_empty() { vec![] } else { vec![("DATABASE_URL", &*url)] };
    let run = async |arguments: &[&str]| {
        run(&[arguments, &["--data-dir", data]].concat(), &environment).await
    };

    let lacking = run(&["check"]).await;
    assert_eq!(lacking.code, Some(1), "{lacking:?}");
    let migrated = run(&["migrate"]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let migrations =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    assert_eq!(migrated.stdout.split(", ").count(), migrations, "{migrated:?}");
    let fine = run(&["check"]).await;
    assert_eq!(
        (fine.code, fine.stdout.trim()),
        (Some(0), "configuration and database are fine"),
        "{fine:?}"
    );
    let nothing = run(&["migrate"]).await;
    assert_eq!(
        (nothing.code, nothing.stdout.trim()),
        (Some(0), "applied: nothing\nrenewed: 0 rows"),
        "{nothing:?}"
    );
    let reverted = run(&["migrate", "--revert", "1"]).await;
    assert_eq!(reverted.code, Some(0), "{reverted:?}");
    let lacking = run(&["check"]).await;
    assert_eq!(lacking.code, Some(1), "{lacking:?}");
    assert!(lacking.stderr.contains("lacks migration"), "{lacking:?}");
    if !environment.is_empty() {
        let refused = run(&["--migrate", "false", "--listen", "127.0.0.1:0"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("lacks migration"), "{refused:?}");
        let unsafe_role = run(&["migrate"]).await;
        assert_eq!(unsafe_role.code, Some(0), "{unsafe_role:?}");
        let unsafe_role = run(&["check", "--database-role", ""]).await;
        assert_eq!(unsafe_role.code, Some(1), "{unsafe_role:?}");
        assert!(unsafe_role.stderr.contains("row-level security"), "{unsafe_role:?}");
    }
}

/// Several replicas that start at once on an empty database all come up.
#[tokio::test]
async fn replicas_may_start_together() {
    let Some(url) = real_database("several processes on one database").await else { return };
    let started = futures_util::future::join_all((0..4).map(|_| Service::on(&url, &[]))).await;
    let tenant = Tenant::on(started[0].channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    for service in &started {
        let tenant = Tenant { channel: service.channel().await, ..tenant.clone() };
        tenant.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await.unwrap();
    }
}

/// The next status that a watch is told.
async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message =
        timeout(Duration::from_secs(10), watch.message()).await.expect("a status in time");
    message.unwrap().expect("a status").status()
}

/// Holds the account `a`, and a call that waits for it.
async fn hold(
    url: &str,
    tenant: &Tenant,
) -> (tokio_postgres::Client, JoinHandle<Result<(), Status>>) {
    let lock = sql(url).await;
    lock.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
    let account = Account { comment: "held".into(), ..account("a", "o") };
    let request =
        Request::new(UpdateAccountRequest { account: Some(account), ..Default::default() });
    let mut accounts = tenant.accounts();
    let call = tokio::spawn(async move { accounts.update_account(request).await.map(drop) });
    waiting_for_locks(&lock, 1).await;
    (lock, call)
}

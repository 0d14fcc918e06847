//! Clients that know nothing but the address: `grpcurl`, and a Python program that learns the
//! contract by reflection.
//!
//! They are no part of a Rust installation. A test whose client is missing is skipped; `.ci/run`
//! brings both.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use customer_accounts::proto::{PACKAGE, POOL};
use customer_accounts_client::{Client, reason, v1};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::support::{Tenant, shared, skip};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn grpcurl_lists_and_describes_the_services() {
    let Some(grpcurl) = Grpcurl::find().await else { return };
    let services = grpcurl.ask(&["list"]).await;
    for service in [
        "accounts.v1.AccountService",
        "accounts.v1.AccountTypeService",
        "accounts.v1.OrganizationService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.lines().any(|line| line == service), "{service} is not in\n{services}");
    }
    let service = grpcurl.ask(&["describe", "accounts.v1.AccountService"]).await;
    for part in [
        "rpc CreateAccount ( .accounts.v1.CreateAccountRequest ) returns ( .accounts.v1.CreateAccountResponse )",
        r#"option (.accounts.v1.policy) = { permission:"accounts.write" module:"customer_accounts" };"#,
    ] {
        assert!(squeeze(&service).contains(&squeeze(part)), "{part} is not in\n{service}");
    }
    let message = grpcurl.ask(&["describe", "accounts.v1.Address"]).await;
    assert!(message.contains("string postal_code = 5;"), "{message}");
}

#[tokio::test]
async fn grpcurl_creates_and_reads_an_account() {
    let Some(grpcurl) = Grpcurl::find().await else { return };
    let organization =
        json!({"organization": {"organization_id": "acme", "display_name": "Acme Corp"}});
    grpcurl.call("OrganizationService/CreateOrganization", &organization).await;
    let account = json!({"account": {
        "account_id": "acme-1",
        "display_name": "Acme Corporation",
        "organization_id": "acme",
        "primary_contact": {"name": "Jane Doe", "email": "jane@acme.example"},
        "billing_address": {"line1": "Main Street 1", "city": "Berlin", "country": "DE"},
        "preferences": {"language": "de"},
    }});
    let created = grpcurl.call("AccountService/CreateAccount", &account).await;
    assert_eq!(created["account"]["status"], "ACCOUNT_STATUS_ACTIVE");
    let id = json!({"account_id": "acme-1"});
    let read = grpcurl.call("AccountService/GetAccount", &id).await;
    assert_eq!(read, created);
    assert_eq!(read["account"]["primaryContact"]["email"], "jane@acme.example");
    assert_eq!(read["account"]["preferences"], json!({"language": "de"}));
    let found = grpcurl
        .call("AccountService/ListAccounts", &json!({"query": "corp acme", "page_size": 10}))
        .await;
    assert_eq!(found["accounts"], json!([read["account"]]));
    grpcurl
        .call(
            "AccountService/DeleteAccount",
            &json!({"account_id": "acme-1", "etag": read["account"]["etag"]}),
        )
        .await;
    let gone = grpcurl.refused("AccountService/GetAccount", &id).await;
    assert!(gone.contains("Code: NotFound"), "{gone}");
}

#[tokio::test]
async fn grpcurl_shows_what_is_wrong_with_a_request() {
    let Some(grpcurl) = Grpcurl::find().await else { return };
    let unknown =
        grpcurl.refused("AccountService/GetAccount", &json!({"account_id": "nobody"})).await;
    for part in [
        "Code: NotFound",
        r#""@type":"type.googleapis.com/google.rpc.ErrorInfo""#,
        r#""domain":"accounts.v1""#,
        r#""metadata":{"account_id":"nobody"}"#,
        r#""reason":"ACCOUNT_NOT_FOUND""#,
        r#""@type":"type.googleapis.com/google.rpc.ResourceInfo""#,
    ] {
        assert!(unknown.contains(part), "{part} is not in\n{unknown}");
    }
    let mistakes = json!({"account": {
        "account_id": "x".repeat(51),
        "status": 9,
        "primary_contact": {"name": "Jane", "email": "nobody"},
        "billing_address": {"country": "xx"},
        "metadata": {"bad key": ""},
    }});
    let wrong = grpcurl.refused("AccountService/CreateAccount", &mistakes).await;
    for part in [
        "Code: InvalidArgument",
        r#""reason":"INVALID_FIELD""#,
        r#""@type":"type.googleapis.com/google.rpc.BadRequest""#,
        r#""field":"account.account_id""#,
        r#""field":"account.display_name""#,
        r#""field":"account.organization_id""#,
        r#""field":"account.status""#,
        r#""field":"account.primary_contact.email""#,
        r#""field":"account.billing_address.country""#,
        r#""field":"account.metadata"#,
    ] {
        assert!(wrong.contains(part), "{part} is not in\n{wrong}");
    }
}

#[tokio::test]
async fn a_python_client_needs_only_reflection() {
    let imports = ["-c", "import grpc, grpc_reflection"];
    if !runs("python3", &imports).await {
        skip("python3 with grpcio and grpcio-reflection is not there");
        return;
    }
    for compression in ["NoCompression", "Gzip"] {
        created_by_python(compression).await;
    }
}

async fn created_by_python(compression: &str) {
    let tenant = Tenant::new().await.caller.tenant;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/client.py");
    let output = run(Command::new("python3").args([
        script,
        &shared().address.to_string(),
        &tenant,
        compression,
    ]))
    .await;
    assert!(output.success, "{compression}: {}", output.stderr);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();

    let created = &answer["created"];
    assert!(created["account_id"].as_str().unwrap().starts_with("acct_"), "{created}");
    assert_eq!(created["display_name"], "Zoë's account");
    assert_eq!(
        created["preferences"],
        json!({"language": "de", "copies": 2.0, "channels": ["email"]})
    );
    assert_eq!(created["metadata"], json!({"erp": "4711"}));

    let refused = &answer["refused"];
    assert_eq!(refused["code"], "INVALID_ARGUMENT");
    let details = &refused["details"];
    assert_eq!(
        details["google.rpc.ErrorInfo"],
        json!({"domain": "accounts.v1", "reason": "INVALID_FIELD"})
    );
    let violations = details["google.rpc.BadRequest"]["field_violations"].as_array().unwrap();
    let fields: Vec<&str> =
        violations.iter().map(|violation| violation["field"].as_str().unwrap()).collect();
    for field in [
        "account.account_id",
        "account.display_name",
        "account.organization_id",
        "account.primary_contact.email",
    ] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
    assert_eq!(fields.len(), 5, "{fields:?}");
}

/// What each program in `examples/` prints.
const FIRST_STEPS: &str = "created Acme Corporation\nrepeated same\nread Berlin\nlisted 1\nupdated Hamburg\n\
                           refused ETAG_MISMATCH\nmember until 2099\n";
const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
const SERVICE_CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/grpc_service_config.json");

/// Compiles the contract to this folder, with the options that say how.
async fn compile_contract(options: &[String]) {
    let files = std::fs::read_dir(format!("{CONTRACT}/accounts/v1"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut command = Command::new("python3");
    let output =
        run(command.args(["-m", "grpc_tools.protoc", "-I", CONTRACT]).args(options).args(files))
            .await;
    assert!(output.success, "{}", output.stderr);
}

#[tokio::test]
async fn first_steps_in_python() {
    if !runs("python3", &["-c", "import grpc, grpc_status, grpc_tools, google.type.date_pb2"]).await
    {
        skip("python3 with grpcio-tools, grpcio-status and googleapis-common-protos is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let generated = folder.path().to_str().unwrap();
    compile_contract(&[
        format!("--python_out={generated}"),
        format!("--grpc_python_out={generated}"),
    ])
    .await;
    let tenant = Tenant::new().await.caller.tenant;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/first_steps.py");
    let address = shared().address.to_string();
    let mut command = Command::new("python3");
    let output =
        run(command.env("PYTHONPATH", generated).args([script, &address, &tenant, SERVICE_CONFIG]))
            .await;
    assert_eq!(output.stdout, FIRST_STEPS, "{}", output.stderr);
}

#[tokio::test]
async fn first_steps_in_node() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node/first_steps.mjs");
    let Some(packages) = node_packages() else { return };
    let tenant = Tenant::new().await.caller.tenant;
    let mut command = Command::new("node");
    let output = run(command.env("NODE_PATH", packages).args([
        script,
        &shared().address.to_string(),
        &tenant,
        CONTRACT,
    ]))
    .await;
    assert_eq!(output.stdout, FIRST_STEPS, "{}", output.stderr);
}

/// With what `buf generate` makes, by the plugins for Go and JavaScript.
#[tokio::test]
async fn first_steps_with_connect() {
    let Some(packages) = node_packages() else { return };
    if !runs("buf", &["--version"]).await || !runs("protoc-gen-go-grpc", &["--version"]).await {
        skip("buf, or Debian's plugins for Go, are not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut generate = Command::new("buf");
    let root = env!("CARGO_MANIFEST_DIR");
    let generated =
        run(generate.current_dir(root).arg("generate").arg("--output").arg(folder.path())).await;
    assert!(generated.success, "{}", generated.stderr);
    // Both the program and what was generated import packages, from the folders above them.
    std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).unwrap();
    let script = folder.path().join("connect_first_steps.mjs");
    std::fs::copy(Path::new(root).join("examples/node/connect_first_steps.mjs"), &script).unwrap();
    let tenant = Tenant::new().await.caller.tenant;
    let mut command = Command::new("node");
    command.arg(&script).args([shared().address.to_string(), tenant]);
    let output = run(command.arg(folder.path().join("gen/es"))).await;
    assert_eq!(output.stdout, FIRST_STEPS, "{}", output.stderr);
}

#[tokio::test]
async fn first_steps_in_go() {
    /// Where Debian keeps the sources of Go packages.
    const DEBIAN: &str = "/usr/share/gocode";
    let there = Path::new(DEBIAN).join("src/google.golang.org/grpc").is_dir();
    if !there
        || !runs("protoc-gen-go-grpc", &["--version"]).await
        || !runs("python3", &["-c", "import grpc_tools"]).await
    {
        skip("Debian's packages for gRPC in Go, or grpcio-tools, are not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let generated = folder.path().join("src");
    std::fs::create_dir(&generated).unwrap();
    let generated = generated.to_str().unwrap();
    compile_contract(&[format!("--go_out={generated}"), format!("--go-grpc_out={generated}")])
        .await;
    let tenant = Tenant::new().await.caller.tenant;
    let program = folder.path().join("first-steps");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/go/main.go");
    let mut go = Command::new("go");
    let go =
        go.env("GO111MODULE", "off").env("GOPATH", format!("{}:{DEBIAN}", folder.path().display()));
    let built = go.args(["build", "-o"]).arg(&program).arg(source).kill_on_drop(true).output();
    // The first time, gRPC itself is compiled.
    let built = timeout(5 * PATIENCE, built).await.expect("builds in time").unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let output =
        run(Command::new(program).args([&*shared().address.to_string(), &tenant, SERVICE_CONFIG]))
            .await;
    assert_eq!(output.stdout, FIRST_STEPS, "{}", output.stderr);
}

#[tokio::test]
async fn the_rust_client_has_every_service_and_reads_reasons() {
    let tenant = Tenant::new().await;
    let client = Client::new(tenant.channel.clone())
        .with_metadata("x-tenant-id", &tenant.caller.tenant)
        .unwrap();
    let organization = v1::Organization {
        organization_id: "acme".into(),
        display_name: "Acme".into(),
        ..Default::default()
    };
    let request =
        v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    client.organizations().create_organization(request.clone()).await.unwrap();
    let again = client.organizations().create_organization(request).await.unwrap_err();
    assert_eq!(reason(&again), Some(v1::ErrorReason::OrganizationAlreadyExists));
    client.people().list_people(v1::ListPeopleRequest::default()).await.unwrap();
    let unknown = client
        .accounts()
        .get_account(v1::GetAccountRequest { account_id: "nobody".into() })
        .await
        .unwrap_err();
    assert_eq!(reason(&unknown), Some(v1::ErrorReason::AccountNotFound));

    let source = include_str!("../../client/src/client.rs");
    for service in POOL.services().filter(|service| service.package_name() == PACKAGE) {
        let stub = format!("-> {}Client<", service.name());
        assert!(source.contains(&stub), "Client has no method {stub}");
    }
}

/// Where the packages for Node are, beside the programs of `.ci/tools`, one of which is on PATH.
/// Skips the test where they are not.
fn node_packages() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).filter_map(|folder| folder.join("..").canonicalize().ok());
    let found = folders.into_iter().find(|folder| folder.join("@grpc/grpc-js").is_dir());
    if found.is_none() {
        skip("@grpc/grpc-js is not there");
    }
    found
}

/// `grpcurl` on the shared service, in a tenant of its own.
struct Grpcurl {
    tenant: String,
}

impl Grpcurl {
    /// Skips the test where it is not installed.
    async fn find() -> Option<Self> {
        if runs("grpcurl", &["--version"]).await {
            return Some(Self { tenant: Tenant::new().await.caller.tenant });
        }
        skip("grpcurl is not there");
        None
    }

    /// Asks about the contract: `list`, `describe`.
    async fn ask(&self, question: &[&str]) -> String {
        let output = run(Command::new("grpcurl")
            .args(["-plaintext", &shared().address.to_string()])
            .args(question))
        .await;
        assert!(output.success, "{}", output.stderr);
        output.stdout
    }

    /// Makes a call and returns its answer.
    async fn call(&self, method: &str, request: &Value) -> Value {
        let output = self.send(method, request).await;
        assert!(output.success, "{method}: {}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// Makes a call that must fail and returns what grpcurl prints, without the blanks that its
    /// JSON may have.
    async fn refused(&self, method: &str, request: &Value) -> String {
        let output = self.send(method, request).await;
        assert!(!output.success, "{method}: {}", output.stdout);
        output.stderr.replace("\": ", "\":")
    }

    async fn send(&self, method: &str, request: &Value) -> Output {
        let tenant = format!("x-tenant-id: {}", self.tenant);
        let (address, method) = (shared().address.to_string(), format!("accounts.v1.{method}"));
        let request = request.to_string();
        run(Command::new("grpcurl").args([
            "-plaintext",
            "-H",
            &tenant,
            "-d",
            &request,
            &address,
            &method,
        ]))
        .await
    }
}

/// What a program printed, and whether it says that all went well.
struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

async fn run(command: &mut Command) -> Output {
    let output = timeout(PATIENCE, command.stdin(Stdio::null()).kill_on_drop(true).output());
    let output = output.await.expect("ends in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output {
        success: output.status.success(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Whether there is such a program, and it answers this with success.
async fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .is_ok_and(|output| output.status.success())
}

/// The text with one blank for each stretch of white space.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! What holds for every call of the contract. The calls are read from the descriptor set, so a new
//! call is tested here as soon as it is declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use customer_accounts::{
    error,
    policy::Policies,
    proto::{
        ErrorReason, FieldBehavior, GetAccountRequest, ListAccountsRequest,
        ListOrganizationsRequest, PACKAGE, POOL, behaviors,
    },
};
use prost::Message as _;
use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{
    Tenant, assert_same_words, comment, config, connect,
    every_call::{asks_for, everything, lists, naming},
    raw::{self, call},
    refusal, refused, screaming, shared, sources, violations,
};

/// Bytes that are no message: a field with the wire type 7, which does not exist.
const NO_MESSAGE: &[u8] = &[0x0f];

fn methods() -> impl Iterator<Item = MethodDescriptor> {
    let services = POOL.services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// `AccountService/GetAccount`
fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().name(), method.name())
}

/// Roles that must not be enough for a permission, and the least role that is.
fn roles(permission: &str) -> (&'static [&'static str], &'static str) {
    match permission.rsplit_once('.').expect("a noun and a verb").1 {
        "read" => (&["", "nobody"], "viewer"),
        "write" | "approve" => (&["", "nobody", "viewer"], "editor"),
        "delete" | "configure" => (&["", "nobody", "viewer", "editor", "viewer,editor"], "admin"),
        verb => panic!("{permission}: say here who has the verb {verb}"),
    }
}

/// The details of an error, which has an `ErrorInfo` with a reason of the contract.
#[track_caller]
fn explained(call: &str, status: &Status) -> ErrorDetails {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{call}: no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "accounts.v1", "{call}: {status:?}");
    refusal(status);
    assert!(!status.message().is_empty(), "{call}: no message: {status:?}");
    details
}

#[track_caller]
fn assert_refused(call: &str, status: &Status, reason: &str) {
    explained(call, status);
    assert_eq!(refusal(status), reason, "{call}: {status:?}");
}

#[test]
fn every_call_has_a_policy() {
    let policies = Policies::read().unwrap();
    assert!(methods().count() >= 37);
    for method in methods() {
        let path = format!("/{PACKAGE}.{}", name(&method));
        let policy = policies.get(&path).unwrap_or_else(|| panic!("{path} has no policy"));
        assert_eq!(format!("/{}", policy.method), path);
        let (noun, verb) = policy.permission.split_once('.').unwrap();
        assert!(
            !noun.is_empty() && ["read", "write", "approve", "delete", "configure"].contains(&verb),
            "{path}: {}",
            policy.permission
        );
        assert!(!policy.module.is_empty(), "{path}");
        let reads =
            ["Get", "List", "BatchGet", "Check", "BatchCheck", "Calculate", "Watch", "Export"];
        let reads = reads.iter().any(|verb| method.name().starts_with(verb));
        assert_eq!(
            verb == "read",
            reads,
            "{path} needs {}: calls that read are named so, and only they",
            policy.permission
        );
    }
}

#[tokio::test]
async fn every_call_refuses_a_caller_without_an_identity() {
    let channel = connect(shared().address).await;
    let long = "x".repeat(65);
    let nobody = "x".repeat(201);
    let identities: &[&[(&str, &[u8])]] = &[
        &[("x-tenant-id", b"")],
        &[("x-tenant-id", b"a b")],
        &[("x-tenant-id", b"a';DROP TABLE accounts;--")],
        &[("x-tenant-id", b"a,b")],
        &[("x-tenant-id", "ä".as_bytes())],
        &[("x-tenant-id", long.as_bytes())],
        &[("x-tenant-id", b"t"), ("x-actor", b"")],
        &[("x-tenant-id", b"t"), ("x-actor", nobody.as_bytes())],
        &[("x-tenant-id", b"t"), ("x-actor", b"\xff")],
        &[("x-tenant-id", b"t"), ("x-roles", b"\xff")],
        // Identity is checked before permissions.
        &[("x-tenant-id", b"a b"), ("x-roles", b"")],
    ];
    for method in methods() {
        for identity in identities {
            // Neither an empty nor an undecodable request is looked at before the caller is known.
            for body in [&[], NO_MESSAGE] {
                let status = call(&channel, &name(&method), identity, body).await.unwrap_err();
                assert_refused(&name(&method), &status, "UNAUTHENTICATED");
            }
        }
    }
}

#[tokio::test]
async fn every_call_refuses_too_small_a_role_before_it_looks_at_the_request() {
    let tenant = Tenant::new().await;
    for policy in Policies::read().unwrap().iter() {
        let method = policy.method.trim_start_matches("accounts.v1.");
        let identity = |roles: &'static str| {
            [("x-tenant-id", tenant.caller.tenant.as_bytes()), ("x-roles", roles.as_bytes())]
        };
        let (too_small, enough) = roles(policy.permission);
        for roles in too_small {
            for body in [&[], NO_MESSAGE] {
                let status =
                    call(&tenant.channel, method, &identity(roles), body).await.unwrap_err();
                assert_refused(method, &status, "PERMISSION_DENIED");
                let details = status.get_error_details();
                let metadata = &details.error_info().unwrap().metadata;
                assert_eq!(
                    metadata.get("permission").map(String::as_str),
                    Some(policy.permission),
                    "{method} as {roles:?}"
                );
            }
        }
        for roles in [enough, "admin", "nobody, admin"] {
            // A watch goes on until its deadline.
            let until = method.contains("/Watch").then_some(("grpc-timeout", &b"1S"[..]));
            let headers: Vec<_> = identity(roles).into_iter().chain(until).collect();
            if let Err(status) = call(&tenant.channel, method, &headers, &[]).await {
                explained(method, &status);
                let expected =
                    if until.is_some() { Code::DeadlineExceeded } else { Code::InvalidArgument };
                assert_eq!(status.code(), expected, "{method} as {roles:?}: {status:?}");
            }
            let status =
                call(&tenant.channel, method, &identity(roles), NO_MESSAGE).await.unwrap_err();
            assert_refused(method, &status, "MALFORMED_REQUEST");
        }
    }
}

#[tokio::test]
async fn an_unknown_call_is_unimplemented_and_says_so() {
    let channel = connect(shared().address).await;
    for path in [
        "/accounts.v1.AccountService/DropAccounts",
        "/accounts.v1.AccountService/getaccount",
        "/accounts.v1.AccountService/",
        "/accounts.v1.NoService/GetAccount",
        "/accounts.v2.AccountService/GetAccount",
        "/other.Service/Call",
        "/grpc.health.v1.Health/NoCall",
    ] {
        let status = raw::call_path(&channel, path, &[], &[]).await.unwrap_err();
        assert_refused(path, &status, "UNIMPLEMENTED");
    }
}

#[tokio::test]
async fn errors_that_tonic_makes_have_a_reason_too() {
    let tenant = Tenant::new().await;
    let identity = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
    let too_large = vec![0; config(&[]).max_message_bytes + 1];
    for method in methods() {
        let method = name(&method);
        let status = call(&tenant.channel, &method, &identity, &too_large).await.unwrap_err();
        assert_refused(&method, &status, "REQUEST_TOO_LARGE");
        let status = call(&tenant.channel, &method, &identity, NO_MESSAGE).await.unwrap_err();
        assert_refused(&method, &status, "MALFORMED_REQUEST");
    }
    // A text that is not UTF-8, a field cut off, and frames that no message comes out of.
    let path = "/accounts.v1.AccountService/GetAccount";
    for body in [&[0x0a, 0x01, 0xff][..], &[0x0a, 0x05, b'x']] {
        let status = raw::call_path(&tenant.channel, path, &identity, body).await.unwrap_err();
        assert_refused("a broken message", &status, "MALFORMED_REQUEST");
    }
    for (what, frames) in [
        ("no message", &[][..]),
        ("half a frame header", &[0, 0, 0]),
        ("half a message", &[0, 0, 0, 0, 9, 0x0a]),
        ("a flag that does not exist", &[9, 0, 0, 0, 0]),
        ("compressed by nothing", &[1, 0, 0, 0, 0]),
    ] {
        let status = raw::call_frames(&tenant.channel, path, &identity, frames).await.unwrap_err();
        assert_refused(what, &status, "MALFORMED_REQUEST");
    }
    let compressed = [identity[0], ("grpc-encoding", b"deflate")];
    let status =
        raw::call_frames(&tenant.channel, path, &compressed, &[1, 0, 0, 0, 0]).await.unwrap_err();
    assert_refused("an encoding that the service does not speak", &status, "UNSUPPORTED_ENCODING");
}

#[tokio::test]
async fn a_malformed_timeout_is_a_violation() {
    let tenant = Tenant::new().await;
    let identity = [("x-tenant-id", tenant.caller.tenant.as_bytes()), ("grpc-timeout", b"soon")];
    let status =
        call(&tenant.channel, "AccountService/ListAccounts", &identity, &[]).await.unwrap_err();
    assert_refused("ListAccounts", &status, "INVALID_FIELD");
}

#[test]
fn requests_of_one_shape_have_the_fields_that_clients_rely_on() {
    let policies = Policies::read().unwrap();
    let mut messages = BTreeSet::new();
    for method in methods() {
        let (request, response) = (method.input(), method.output());
        assert_eq!(request.name(), format!("{}Request", method.name()));
        assert_eq!(response.name(), format!("{}Response", method.name()));
        assert!(
            messages.insert(request.full_name().to_owned()),
            "{} is the request of two calls",
            request.name()
        );
        let policy = policies.get(&format!("/{PACKAGE}.{}", name(&method))).unwrap();
        let changes = policy.permission.rsplit('.').next() != Some("read");
        for (field, kind) in [("request_id", Kind::String), ("validate_only", Kind::Bool)] {
            assert_eq!(
                scalar(&request, field),
                changes.then_some(kind),
                "{}.{field}",
                request.name()
            );
        }
        let verb = ["Create", "Put", "Get", "Update", "Delete", "List"]
            .into_iter()
            .find(|verb| method.name().starts_with(verb));
        match verb {
            Some("Create" | "Put") => {
                let resource = resource(&request, method.name());
                assert!(
                    resource.get_field_by_name("etag").is_some(),
                    "{} has an etag",
                    resource.name()
                );
            }
            Some("Update") => {
                resource(&request, method.name());
                let mask = request.get_field_by_name("update_mask").map(|field| field.kind());
                let mask =
                    mask.and_then(|kind| kind.as_message().map(|mask| mask.full_name().to_owned()));
                assert_eq!(
                    mask.as_deref(),
                    Some("google.protobuf.FieldMask"),
                    "{}",
                    request.name()
                );
            }
            Some("Delete") => {
                assert_eq!(scalar(&request, "etag"), Some(Kind::String), "{}", request.name());
            }
            Some("List") => {
                assert_eq!(scalar(&request, "page_size"), Some(Kind::Int32), "{}", request.name());
                assert_eq!(
                    scalar(&request, "page_token"),
                    Some(Kind::String),
                    "{}",
                    request.name()
                );
                assert_eq!(
                    scalar(&response, "next_page_token"),
                    Some(Kind::String),
                    "{}",
                    response.name()
                );
                assert_eq!(
                    scalar(&request, "include_total_size"),
                    Some(Kind::Bool),
                    "{}",
                    request.name()
                );
                assert_eq!(
                    scalar(&response, "total_size"),
                    Some(Kind::Int32),
                    "{}",
                    response.name()
                );
                assert_eq!(
                    scalar(&response, "total_size_capped"),
                    Some(Kind::Bool),
                    "{}",
                    response.name()
                );
                let plural = response.get_field(1).expect("field 1 is the page");
                assert!(plural.cardinality() == Cardinality::Repeated, "{}", plural.full_name());
                let order = request
                    .get_field_by_name("order_by")
                    .unwrap_or_else(|| panic!("{} has order_by", request.name()));
                assert_ordered(
                    order
                        .kind()
                        .as_enum()
                        .unwrap_or_else(|| panic!("{} is an enum", order.full_name())),
                );
            }
            _ => {}
        }
    }
}

/// Rows of lists name other resources by their ids. A client that shows them reads all of these in
/// one call.
#[test]
fn what_is_read_by_id_is_also_read_in_batches() {
    let mut batches = 0;
    for method in methods().filter(|method| method.name().starts_with("Get")) {
        let (request, response) = (method.input(), method.output());
        let (Some(id), None) = (request.get_field(1), request.get_field(2)) else { continue };
        let resource = response.get_field(1).unwrap().kind().as_message().unwrap().clone();
        let service = method.parent_service();
        let reads = |batch: &MethodDescriptor| {
            let ids = batch.input().get_field_by_name(&format!("{}s", id.name()));
            let rows = batch
                .output()
                .get_field(1)
                .filter(|rows| rows.is_list() && rows.kind().as_message() == Some(&resource));
            batch.name().starts_with("BatchGet")
                && ids.is_some_and(|ids| ids.is_list())
                && rows.is_some()
        };
        assert!(service.methods().any(|batch| reads(&batch)), "no batch of {}", name(&method));
        batches += 1;
    }
    assert!(batches >= 4, "{batches}");
}

/// The kind of a single field that is no message.
fn scalar(message: &MessageDescriptor, field: &str) -> Option<Kind> {
    message.get_field_by_name(field).filter(|field| !field.is_list()).map(|field| field.kind())
}

/// The resource of a create or update request: a message field named after the call.
fn resource(request: &MessageDescriptor, method: &str) -> MessageDescriptor {
    let noun =
        method.trim_start_matches("Create").trim_start_matches("Put").trim_start_matches("Update");
    let field = request
        .fields()
        .find(|field| field.kind().as_message().is_some_and(|message| message.name() == noun));
    let field = field.unwrap_or_else(|| panic!("{} has a {noun}", request.name()));
    assert_eq!(field.name().replace('_', ""), noun.to_lowercase());
    field.kind().as_message().unwrap().clone()
}

/// Fails unless a list has exactly the orders that its queries know, each in both directions but
/// those by a date that lies ahead. The first one is the default.
fn assert_ordered(order: &EnumDescriptor) {
    let known: &[&str] = match order.name() {
        // Activities, delivery setups and orders have no name. Subscriptions are listed by machines.
        "ActivityOrderBy" | "DeliverySetupOrderBy" | "SubscriptionOrderBy" => &["CREATE_TIME"],
        "OrderOrderBy" => &["ORDER_TIME"],
        "AccountOrderBy" => &["CREATE_TIME", "DISPLAY_NAME", "STATUS", "UPDATE_TIME"],
        "ContractOrderBy" => &["CREATE_TIME", "NOTICE_DEADLINE_DATE", "TERM_END_DATE", "TITLE"],
        _ => &["CREATE_TIME", "DISPLAY_NAME"],
    };
    let zero = order.get_value(0).unwrap();
    let prefix = zero.name().strip_suffix("UNSPECIFIED").expect("0 is unspecified");
    let values = order.values().filter(|value| value.number() != 0);
    let names: BTreeSet<_> =
        values.map(|value| value.name().strip_prefix(prefix).unwrap().to_owned()).collect();
    let both = known.iter().flat_map(|name| [(*name).to_owned(), format!("{name}_DESC")]);
    let expected = both.filter(|name| !name.ends_with("_DATE_DESC")).collect();
    assert_eq!(names, expected, "{}", order.full_name());
    let first = order.get_value(1).unwrap();
    let first = first.name().strip_prefix(prefix).unwrap();
    let comment = comment(&order.parent_file(), zero.path());
    assert_eq!(comment, format!("The same as {first}."), "{}", zero.full_name());
}

/// Comments are for people, `google.api.field_behavior` is for programs, and both say the same.
#[test]
fn comments_and_field_behavior_say_the_same() {
    let mut said = BTreeMap::new();
    for file in POOL.files().filter(|file| file.package_name() == PACKAGE) {
        for message in file.messages() {
            let all = comment(&file, message.path());
            for field in message.fields() {
                let (name, behaviors) = (field.full_name(), behaviors(&field));
                let comment = format!(" {}", comment(&file, field.path()));
                let output_only =
                    all.contains(" Output only.") || comment.contains(" Output only.");
                let identifier = comment.contains(" Never changes.");
                let immutable = comment.contains(" Stays as created.");
                let expected = [
                    (identifier, FieldBehavior::Identifier),
                    (output_only && !identifier, FieldBehavior::OutputOnly),
                    (comment.contains(" Required."), FieldBehavior::Required),
                    (immutable, FieldBehavior::Immutable),
                ];
                let expected: Vec<_> = expected
                    .into_iter()
                    .filter(|(says, _)| *says)
                    .map(|(_, behavior)| behavior)
                    .collect();
                assert_eq!(behaviors, expected, "{name}:{comment}");
                for behavior in behaviors {
                    *said.entry(behavior).or_insert(0) += 1;
                }
                // Updates leave these alone.
                if ["create_time", "update_time"].contains(&field.name()) {
                    assert_eq!(expected, [FieldBehavior::OutputOnly], "{name}");
                }
            }
        }
    }
    assert!(said.len() == 4 && said.values().all(|fields| *fields >= 2), "{said:?}");
}

/// The fields that an empty request lacks: its required fields, and of the resource in it those
/// with the behaviour `inside`.
fn lacked(request: &MessageDescriptor, inside: FieldBehavior) -> BTreeSet<String> {
    let mut lacked = BTreeSet::new();
    let is = |field: &FieldDescriptor, behavior| behaviors(field).contains(&behavior);
    for field in request.fields().filter(|field| is(field, FieldBehavior::Required)) {
        lacked.insert(field.name().to_owned());
        if let (Kind::Message(resource), false) = (field.kind(), field.is_list()) {
            let fields = resource.fields().filter(|below| is(below, inside));
            lacked.extend(fields.map(|below| format!("{}.{}", field.name(), below.name())));
        }
    }
    lacked
}

#[tokio::test]
async fn an_empty_request_lacks_what_is_required_and_nothing_else() {
    let tenant = Tenant::new().await;
    let identity = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
    for method in methods().filter(|method| !method.is_server_streaming()) {
        let update = method.name().starts_with("Update");
        let inside = if update { FieldBehavior::Identifier } else { FieldBehavior::Required };
        let mut lacked = lacked(&method.input(), inside);
        if method.name() == "CalculateRecurringRevenue" {
            // One of two fields is required.
            lacked.insert("account_id".to_owned());
        }
        let answer = call(&tenant.channel, &name(&method), &identity, &[]).await;
        if lacked.is_empty() {
            assert!(answer.is_ok(), "{}: {answer:?}", name(&method));
            continue;
        }
        let refused: BTreeSet<_> = violations(answer)
            .into_iter()
            // The one part of a contact that it must have.
            .map(|(field, _)| field.replace("primary_contact.email", "primary_contact"))
            .collect();
        assert_eq!(refused, lacked, "{}", name(&method));
    }
}

#[test]
fn everything_in_the_contract_is_explained() {
    let mut things = 0;
    for file in POOL.files().filter(|file| file.package_name() == PACKAGE) {
        let mut paths = Vec::new();
        for service in file.services() {
            paths.push((service.full_name().to_owned(), service.path().to_vec()));
            paths.extend(
                service
                    .methods()
                    .map(|method| (method.full_name().to_owned(), method.path().to_vec())),
            );
        }
        for message in file.messages() {
            paths.push((message.full_name().to_owned(), message.path().to_vec()));
            paths.extend(
                message.fields().map(|field| (field.full_name().to_owned(), field.path().to_vec())),
            );
        }
        for values in file.enums() {
            paths.push((values.full_name().to_owned(), values.path().to_vec()));
            paths.extend(
                values.values().map(|value| (value.full_name().to_owned(), value.path().to_vec())),
            );
        }
        things += paths.len();
        for (name, path) in paths {
            assert!(!comment(&file, &path).is_empty(), "{name} in {} has no comment", file.name());
        }
    }
    assert!(things > 150, "{things}");
}

/// What every call can fail with is said once, at its service.
#[test]
fn the_comment_of_a_service_names_what_every_call_can_fail_with() {
    let mut services = 0;
    for service in POOL.services().filter(|service| service.package_name() == PACKAGE) {
        services += 1;
        let (name, says) = (service.full_name(), comment(&service.parent_file(), service.path()));
        let policies = Policies::read().unwrap();
        let mut calls = policies.iter().filter(|policy| policy.method.starts_with(name));
        let module =
            calls.any(|policy| !policy.module.is_empty()).then_some("MODULE_NOT_ACTIVATED");
        let always = ["INVALID_FIELD", "UNAUTHENTICATED", "PERMISSION_DENIED", "OVERLOADED"];
        for reason in always.into_iter().chain(module) {
            assert!(says.contains(reason), "{name} does not name {reason}");
        }
    }
    assert!(services >= 11, "{services}");
}

/// As `buf`'s managed mode sets them; `go_package` needs a prefix, which is the name of the
/// project.
#[test]
fn every_file_says_where_its_code_goes_in_each_language() {
    let mut files = 0;
    for file in POOL.files().filter(|file| file.package_name() == PACKAGE) {
        let name = file.name().trim_start_matches("accounts/v1/").trim_end_matches(".proto");
        let words = name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        let options = file.file_descriptor_proto().options.clone().unwrap_or_default();
        let found = [
            options.go_package(),
            options.java_package(),
            options.java_outer_classname(),
            options.csharp_namespace(),
            options.php_namespace(),
            options.php_metadata_namespace(),
            options.ruby_package(),
            options.objc_class_prefix(),
        ];
        let expected = [
            "customer-accounts/accounts/v1;accountsv1",
            "com.accounts.v1",
            &format!("{}Proto", words.collect::<String>()),
            "Accounts.V1",
            r"Accounts\V1",
            r"Accounts\V1\GPBMetadata",
            "Accounts::V1",
            "AXX",
        ];
        assert_eq!(found, expected, "{name}");
        assert!(options.java_multiple_files(), "{name}");
        files += 1;
    }
    assert!(files >= 9, "{files}");
}

/// Codes after which a client library may retry without looking at the reason: for reads
/// UNAVAILABLE and RESOURCE_EXHAUSTED, for changes only RESOURCE_EXHAUSTED. UNAVAILABLE may come
/// from a connection that was lost after the change was made.
#[test]
fn the_service_config_says_of_every_call_what_may_be_repeated() {
    let config: serde_json::Value =
        serde_json::from_str(include_str!("../../proto/grpc_service_config.json")).unwrap();
    let mut told = BTreeMap::new();
    for entry in config["methodConfig"].as_array().unwrap() {
        for name in entry["name"].as_array().unwrap() {
            let path = format!(
                "{}/{}",
                name["service"].as_str().unwrap(),
                name["method"].as_str().unwrap()
            );
            let codes = &entry["retryPolicy"]["retryableStatusCodes"];
            assert_eq!(
                told.insert(path.clone(), (codes.clone(), entry["timeout"].clone())),
                None,
                "{path} is there twice"
            );
        }
    }
    for policy in Policies::read().unwrap().iter() {
        let found =
            told.remove(policy.method).unwrap_or_else(|| panic!("{} is not there", policy.method));
        // Streams are left to the caller, who goes on where they ended.
        let streams = ["/WatchActivities", "/ImportAccounts", "/ExportAccounts"];
        let expected = if streams.iter().any(|name| policy.method.ends_with(name)) {
            (serde_json::Value::Null, serde_json::Value::Null)
        } else if policy.permission.rsplit('.').next() == Some("read") {
            (serde_json::json!(["UNAVAILABLE", "RESOURCE_EXHAUSTED"]), "10s".into())
        } else {
            (serde_json::json!(["RESOURCE_EXHAUSTED"]), "10s".into())
        };
        assert_eq!(found, expected, "{}", policy.method);
    }
    assert!(told.is_empty(), "no such calls: {told:?}");
}

#[test]
fn every_reason_says_its_code_and_comes_from_somewhere() {
    let reasons = POOL.get_enum_by_name("accounts.v1.ErrorReason").unwrap();
    let info = reasons.parent_file().file_descriptor_proto().source_code_info.clone().unwrap();
    let given = given_reasons();
    for reason in reasons.values().filter(|value| value.number() != 0) {
        let location =
            info.location.iter().find(|location| location.path == reason.path()).unwrap();
        let comment = location.leading_comments();
        let (code, advice) = comment
            .trim()
            .split_once(". ")
            .unwrap_or_else(|| panic!("{}: {comment}", reason.name()));
        let value = ErrorReason::try_from(reason.number()).unwrap();
        assert_eq!(
            code,
            screaming(error::code(value)),
            "{} begins with its gRPC code",
            reason.name()
        );
        assert!(advice.len() > 20, "{}: {advice}", reason.name());
        assert!(given.contains(&format!("{value:?}")), "nothing gives {}", reason.name());
    }
}

/// The reasons that the code of the service names as `ErrorReason::…`, tests aside. The list of
/// their codes does not name them so.
fn given_reasons() -> BTreeSet<String> {
    let reasons = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let named = code.split("ErrorReason::").skip(1);
        let named = named.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
        named.flatten().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let files = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    files.iter().flat_map(reasons).collect()
}

#[test]
fn every_call_has_a_request_that_names_what_it_needs() {
    let all: BTreeSet<_> = methods().map(|method| name(&method)).collect();
    let asks = naming("x", "x");
    let tested: BTreeSet<_> = asks.iter().map(|ask| ask.method.to_owned()).collect();
    assert_eq!(tested, all, "support/every_call.rs has a request of every call");
    let named: BTreeSet<_> =
        asks_for("x").into_iter().chain(lists("x")).map(|(method, _)| method.to_owned()).collect();
    let nothing: Vec<_> = all.difference(&named).collect();
    assert_eq!(
        nothing,
        [
            "AccountTypeService/CreateAccountType",
            "ActivityService/WatchActivities",
            "TenantService/GetTenantSettings",
            "TenantService/UpdateTenantSettings",
        ],
        "the requests of these calls name no resource"
    );
}

#[tokio::test]
async fn another_tenants_resources_are_word_for_word_like_those_that_never_existed() {
    let (ours, theirs) = (Tenant::new().await, Tenant::new().await);
    // As long as an id that nobody has, so that the encoded details are, too.
    let (taken, free) = ("taken-id", "never-id");
    for (tenant, id) in [(&theirs, taken), (&ours, "own")] {
        everything(tenant, id).await;
    }
    let identity = [("x-tenant-id", ours.caller.tenant.as_bytes())];
    for ((method, taken_request), (_, free_request)) in
        asks_for(taken).into_iter().zip(asks_for(free))
    {
        let theirs = call(&ours.channel, method, &identity, &taken_request).await.unwrap_err();
        let nobodys = call(&ours.channel, method, &identity, &free_request).await.unwrap_err();
        assert_eq!(theirs.code(), Code::NotFound, "{method}: {theirs:?}");
        explained(method, &theirs);
        assert_same_words(method, (&theirs, taken), (&nobodys, free));
    }
    // Our tenant can use the ids that the other tenant has taken.
    everything(&ours, taken).await;
}

#[tokio::test]
async fn another_tenants_lists_are_empty() {
    let (ours, theirs) = (Tenant::new().await, Tenant::new().await);
    everything(&theirs, "taken-id").await;
    let id = || "taken-id".to_owned();
    let children = ListOrganizationsRequest { parent_id: id(), ..Default::default() };
    let linked = ListAccountsRequest { linked_organization_id: id(), ..Default::default() };
    // The tenant has nothing of this itself.
    let empty = [
        ("OrganizationService/ListOrganizations", children.encode_to_vec()),
        ("AccountService/ListAccounts", linked.encode_to_vec()),
    ];
    for (method, request) in lists("taken-id") {
        let shown = |tenant: &Tenant| {
            let (channel, tenant, request) =
                (tenant.channel.clone(), tenant.caller.tenant.clone(), request.clone());
            async move {
                call(&channel, method, &[("x-tenant-id", tenant.as_bytes())], &request)
                    .await
                    .unwrap()
            }
        };
        assert_eq!(
            shown(&ours).await,
            [Vec::<u8>::new()],
            "{method} shows nothing to another tenant"
        );
        if !empty.contains(&(method, request.clone())) {
            let own = shown(&theirs).await;
            assert_ne!(own, [Vec::<u8>::new()], "{method} shows something to its own");
        }
    }
}

#[tokio::test]
async fn a_not_found_names_what_was_not_found() {
    let tenant = Tenant::new().await;
    let (status, details) = refused(
        tenant.accounts().get_account(GetAccountRequest { account_id: "gone".into() }).await,
    );
    assert_refused("GetAccount", &status, "ACCOUNT_NOT_FOUND");
    assert_eq!(
        details.error_info().unwrap().metadata.get("account_id").map(String::as_str),
        Some("gone")
    );
    let resource = details.resource_info().unwrap();
    assert_eq!(
        (&*resource.resource_type, &*resource.resource_name),
        ("accounts.v1.Account", "gone")
    );
}

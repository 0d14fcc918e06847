//! Identity by token: which tokens are accepted, for which caller, and which are refused.

mod command;
mod hostile;
mod keys;

use customer_accounts::{
    caller::{Caller, Identity, Reach},
    config::Config,
    policy::Policies,
    proto::{
        AccountType, CreateAccountTypeRequest, CreatePersonRequest, GetAccountRequest,
        ListAccountTypesRequest, ListAccountsRequest, ListActivitiesRequest, Person,
        WatchActivitiesRequest, account_service_client::AccountServiceClient,
        account_type_service_client::AccountTypeServiceClient,
        activity_service_client::ActivityServiceClient, person_service_client::PersonServiceClient,
    },
    server,
};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{
    Tenant, assert_same_words, config,
    raw::call,
    refusal,
    tokens::{AUDIENCE, Guarded, Issuer, Key, but, claims, key_set, now},
    unique,
};

const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
const DENIED: &str = "PERMISSION_DENIED";

#[tokio::test]
async fn every_kind_of_key_signs_in() {
    let keys = [
        Key::rs256("a"),
        Key::rs256("b").into_ps256(),
        Key::es256("c"),
        Key::es384("d"),
        Key::ed25519("e"),
    ];
    let issuer = Issuer::with(&keys.each_ref()).await;
    let service = Guarded::by(&issuer, &[]).await;
    for key in &keys {
        let token = key.sign(&issuer.claims("t"));
        for _ in 0..2 {
            service.read(&token).await.unwrap_or_else(|error| panic!("{}: {error:?}", key.alg));
        }
    }
}

#[tokio::test]
async fn the_forms_of_a_token_that_the_standards_allow_are_accepted() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[]).await;
    let good = issuer.claims("t");
    for header in [
        json!({"alg": "ES256"}),
        json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}),
        json!({"alg": "ES256", "kid": "k", "typ": "application/AT+JWT"}),
    ] {
        service
            .read(&key.sign_as(&header, &good))
            .await
            .unwrap_or_else(|error| panic!("{header}: {error:?}"));
    }
    for changes in [
        json!({"aud": ["someone", AUDIENCE]}),
        json!({"exp": now() - 10}),
        json!({"nbf": now() + 10}),
        json!({"nbf": now() - 10}),
        json!({"exp": 4e9 + 0.5}),
        json!({"sub": "ä".repeat(200)}),
        json!({"tenant_id": "x".repeat(64)}),
        json!({"roles": ["unheard-of", "viewer"]}),
        json!({"roles": "unheard-of viewer"}),
    ] {
        service
            .read(&key.sign(&but(good.clone(), changes.clone())))
            .await
            .unwrap_or_else(|error| panic!("{changes}: {error:?}"));
    }
    let token = key.sign(&good);
    for scheme in ["Bearer ", "bearer ", "BEARER ", "Bearer   "] {
        service
            .read_with(&[("authorization", format!("{scheme}{token}").as_bytes())])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn roles_come_from_the_token() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[]).await;
    let tenant = unique();
    let token = |roles: Value| key.sign(&but(issuer.claims(&tenant), json!({"roles": roles})));
    for reader in [json!("viewer"), json!(["viewer"])] {
        service.read(&token(reader.clone())).await.unwrap();
        assert_eq!(refusal(create(&service, &token(reader), &[]).await), DENIED);
    }
    create(&service, &token(json!("viewer admin")), &[]).await.unwrap();
    for none in
        [json!([]), json!(""), json!("Admin"), json!(["root"]), json!("viewer,admin"), Value::Null]
    {
        assert_eq!(refusal(service.read(&token(none.clone())).await), DENIED, "{none}");
    }
}

#[tokio::test]
async fn the_headers_of_development_mean_nothing_where_tokens_do() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[]).await;
    let [mine, other] = [unique(), unique()];
    let pretended: &[(&'static str, &str)] =
        &[("x-tenant-id", &other), ("x-roles", "admin"), ("x-actor", "someone")];
    assert_eq!(refusal(create(&service, "", pretended).await), UNAUTHENTICATED);
    let viewer = key.sign(&but(issuer.claims(&mine), json!({"roles": ["viewer"]})));
    assert_eq!(refusal(create(&service, &viewer, pretended).await), DENIED);
    // What is made is made in the token's tenant.
    let [admin, elsewhere] = [&mine, &other].map(|tenant| key.sign(&issuer.claims(tenant)));
    create(&service, &admin, pretended).await.unwrap();
    assert_eq!((types(&service, &admin).await, types(&service, &elsewhere).await), (1, 0));
}

/// A `sub` that two issuers use names two people, in the trail and for reach.
#[tokio::test]
async fn the_subjects_of_several_issuers_are_told_apart() {
    let [staff_key, partner_key] = [Key::es256("s"), Key::es256("p")];
    let [staff, partner] = [Issuer::with(&[&staff_key]).await, Issuer::with(&[&partner_key]).await];
    let second = partner.options();
    let prefix = format!("{}=partner:", partner.name);
    let service =
        Guarded::by(&staff, &["--token-issuer", &second[1], "--token-actor-prefix", &prefix]).await;
    let tenant = unique();
    let of_staff = |changes: Value| staff_key.sign(&but(staff.claims(&tenant), changes));
    let of_partner = |changes: Value| partner_key.sign(&but(partner.claims(&tenant), changes));
    for token in [of_staff(json!({"sub": "jane"})), of_partner(json!({"sub": "jane"}))] {
        // The second time the token is remembered.
        for _ in 0..2 {
            create(&service, &token, &[]).await.unwrap();
        }
    }
    assert_eq!(actors(&service, &of_staff(json!({}))).await, ["jane", "partner:jane"]);
    // A token whose subject begins with the prefix of the other issuer is refused.
    for _ in 0..2 {
        assert_eq!(
            refusal(service.read(&of_staff(json!({"sub": "partner:jane"}))).await),
            UNAUTHENTICATED
        );
    }
    service.read(&of_partner(json!({"sub": "partner:jane"}))).await.unwrap();
    // The prefix counts as a part of the actor, which has 200 characters.
    service.read(&of_partner(json!({"sub": "x".repeat(192)}))).await.unwrap();
    assert_eq!(
        refusal(service.read(&of_partner(json!({"sub": "x".repeat(193)}))).await),
        UNAUTHENTICATED
    );
    // Reach is that of the person with the whole actor as subject.
    let bearer = format!("Bearer {}", of_staff(json!({})));
    let mut people = PersonServiceClient::with_interceptor(
        service.channel.clone(),
        move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
            Ok(request)
        },
    );
    let person = |subject: &str| {
        let person = Person {
            display_name: subject.into(),
            kind: 1,
            subject: subject.into(),
            ..Default::default()
        };
        CreatePersonRequest { person: Some(person), ..Default::default() }
    };
    people.create_person(person("jane")).await.unwrap();
    people.create_person(person("partner:jane")).await.unwrap();
}

/// The actors of the tenant's trail, each once.
async fn actors(service: &Guarded, token: &str) -> Vec<String> {
    let bearer = format!("Bearer {token}");
    let mut client = ActivityServiceClient::with_interceptor(
        service.channel.clone(),
        move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
            Ok(request)
        },
    );
    let list = client.list_activities(ListActivitiesRequest::default()).await.unwrap().into_inner();
    let actors: std::collections::BTreeSet<_> =
        list.activities.into_iter().map(|activity| activity.actor).collect();
    actors.into_iter().collect()
}

#[tokio::test]
async fn every_other_call_needs_a_token() {
    let key = Key::es256("k");
    let service = Guarded::by(&Issuer::with(&[&key]).await, &[]).await;
    for policy in Policies::read().unwrap().iter() {
        let method = policy.method.trim_start_matches("accounts.v1.");
        for headers in [&[][..], &[("x-tenant-id", &b"t"[..]), ("x-roles", b"admin")]] {
            assert_eq!(
                refusal(call(&service.channel, method, headers, b"").await),
                UNAUTHENTICATED,
                "{method}"
            );
        }
    }
}

#[tokio::test]
async fn health_and_reflection_need_no_token() {
    let key = Key::es256("k");
    let service = Guarded::by(&Issuer::with(&[&key]).await, &[]).await;
    assert_eq!(refusal(service.read_with(&[]).await), UNAUTHENTICATED);
    HealthClient::new(service.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let list = Some(MessageRequest::ListServices(String::new()));
    let ask =
        tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request: list });
    let mut answers = ServerReflectionClient::new(service.channel.clone())
        .server_reflection_info(ask)
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn a_remembered_token_is_forgotten_when_it_expires() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &["--token-leeway", "0s"]).await;
    // The keys are there, so that the token need not wait for them.
    service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    let expires = now() + 6;
    let token = key.sign(&but(issuer.claims("t"), json!({"exp": expires})));
    service.read(&token).await.unwrap();
    service.until("the end of the token", || token.clone(), Result::is_err).await;
    assert_eq!(refusal(service.read(&token).await), UNAUTHENTICATED);
    assert!(now() >= expires);
}

#[tokio::test]
async fn the_caller_is_what_the_claims_say() {
    let (key, folder) = (Key::es256("k"), tempfile::tempdir().unwrap());
    let file = folder.path().join("keys.json");
    std::fs::write(&file, key_set(&[&key])).unwrap();
    let issuer = format!("i={}", file.display());
    let options = ["--token-issuer", &issuer, "--token-audience", AUDIENCE];
    let named = [
        "--token-tenant-claim",
        "https://i.example/t",
        "--token-roles-claim",
        "/app/roles",
        "--token-tenant-wide-claim",
        "w",
    ];
    for (config, renamed) in
        [(config(&options), false), (config(&[&options[..], &named].concat()), true)]
    {
        let caller = async |roles: &str, tenant_wide: Value| {
            let (roles, everywhere) = (json!([roles]), tenant_wide);
            let changes = if renamed {
                json!({"https://i.example/t": "acme", "app": {"roles": roles}, "w": everywhere, "tenant_id": 5, "roles": 5})
            } else {
                json!({"tenant_id": "acme", "roles": roles, "tenant_wide": everywhere})
            };
            identify(&config, &key.sign(&but(claims("i", "none"), changes))).await
        };
        let found = caller("viewer", Value::Null).await.unwrap();
        assert_eq!(
            (found.tenant.as_str(), &*found.actor, found.reach),
            ("acme", "tester", Reach::Person)
        );
        assert_eq!(caller("viewer", json!(false)).await.unwrap().reach, Reach::Person);
        assert_eq!(caller("viewer", json!(true)).await.unwrap().reach, Reach::Tenant);
        assert_eq!(caller("admin", json!(false)).await.unwrap().reach, Reach::Tenant);
        for wrong in [json!("true"), json!(1), json!([true])] {
            assert_eq!(refusal(caller("admin", wrong).await), UNAUTHENTICATED);
        }
    }
}

#[test]
fn with_an_issuer_any_address_may_be_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, key_set(&[&Key::es256("k")])).unwrap();
    let issuer = format!("i={}", file.display());
    let address = "192.0.2.1:50051".parse().unwrap();
    assert!(
        server::identity(&config(&["--token-issuer", &issuer, "--token-audience", "a"]), address)
            .is_ok()
    );
    let refused = server::identity(&config(&[]), address).unwrap_err().to_string();
    for option in ["--listen", "192.0.2.1", "loopback", "--token-issuer", "--token-audience"] {
        assert!(refused.contains(option), "{refused}");
    }
}

#[tokio::test]
async fn the_token_of_a_regional_manager_shows_the_region_and_below() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[]).await;
    let (tenant, _) = Tenant::regions().await;
    let claims = |changes: Value| but(issuer.claims(&tenant.caller.tenant), changes);
    let manager = key.sign(&claims(json!({"sub": "subject-of-manager", "roles": ["viewer"]})));
    let mut accounts = AccountServiceClient::new(service.channel.clone());
    let listed = accounts
        .list_accounts(bearing(&manager, ListAccountsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<_> = listed.accounts.into_iter().map(|account| account.account_id).collect();
    assert_eq!(ids, ["north-account", "oslo-account"]);
    let mut get = async |account_id: &str| {
        accounts
            .get_account(bearing(&manager, GetAccountRequest { account_id: account_id.into() }))
            .await
            .map(drop)
    };
    get("oslo-account").await.unwrap();
    let (elsewhere, nowhere) =
        (get("rome-account").await.unwrap_err(), get("none-account").await.unwrap_err());
    assert_same_words("GetAccount", (&elsewhere, "rome-account"), (&nowhere, "none-account"));

    let everywhere =
        key.sign(&claims(json!({"sub": "someone", "roles": ["viewer"], "tenant_wide": true})));
    let listed = accounts
        .list_accounts(bearing(&everywhere, ListAccountsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.accounts.len(), 4);
}

#[tokio::test]
async fn a_watch_ends_with_the_token_it_was_opened_with() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let service = Guarded::by(&issuer, &[]).await;
    // The keys are there, so that the token need not wait for them.
    service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
    let expires = now() + 3;
    let token = key.sign(&but(issuer.claims(&unique()), json!({"exp": expires})));
    let mut client = ActivityServiceClient::new(service.channel.clone());
    let mut watch = client
        .watch_activities(bearing(&token, WatchActivitiesRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some(), "it begins");
    let end = loop {
        if let Err(end) = watch.message().await {
            break end;
        }
    };
    assert_eq!(refusal(end), "WATCH_ENDED");
    assert!((expires..expires + 10).contains(&now()));
}

/// A request with a token.
fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// The caller that a service with these options sees behind a token.
async fn identify(config: &Config, token: &str) -> Result<Caller, Status> {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let policies = Policies::read().unwrap();
    let policy = policies.get("/accounts.v1.AccountService/GetAccount").unwrap();
    let identity = Identity::configured(&config.tokens).unwrap();
    Ok(identity.caller(&headers, policy, Instant::now()).await?)
}

/// Creates an account type, with a token unless it is empty.
async fn create(
    service: &Guarded,
    token: &str,
    headers: &[(&'static str, &str)],
) -> Result<(), Status> {
    let account_type = AccountType { display_name: unique(), ..Default::default() };
    let mut request = Request::new(CreateAccountTypeRequest {
        account_type: Some(account_type),
        ..Default::default()
    });
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    AccountTypeServiceClient::new(service.channel.clone())
        .create_account_type(request)
        .await
        .map(drop)
}

/// How many account types the token shows.
async fn types(service: &Guarded, token: &str) -> usize {
    let mut request = Request::new(ListAccountTypesRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut client = AccountTypeServiceClient::new(service.channel.clone());
    client.list_account_types(request).await.unwrap().into_inner().account_types.len()
}

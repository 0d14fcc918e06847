//! Incarnations: an id that is taken again is not the resource that had it before.

use customer_accounts::{
    db::{Manager, migrate},
    proto::{Account, AccountUser, Activity, ListActivitiesRequest, ModuleSetting},
};

use crate::support::{
    self, Tenant, account,
    calls::only,
    real_database,
    watch::{Watch, sealed},
};

impl Tenant {
    async fn activities_by(&self, request: ListActivitiesRequest) -> Vec<Activity> {
        let request = ListActivitiesRequest { page_size: 1000, order_by: 2, ..request };
        self.activities().list_activities(request).await.unwrap().into_inner().activities
    }
}

/// What happened, and in which words.
fn told(activities: &[Activity]) -> Vec<String> {
    activities
        .iter()
        .map(|activity| format!("{} {}", activity.action, activity.resource_id))
        .collect()
}

#[tokio::test]
async fn who_takes_the_id_of_something_deleted_is_not_shown_what_happened_to_it() {
    let (tenant, manager) = Tenant::regions().await;
    tenant.account(account("x", "rome")).await;
    tenant.update(Account { comment: "secret".into(), ..only("x") }, &[]).await.unwrap();
    tenant.organization("y", "south").await;
    tenant.rename("y", "secret").await.unwrap();
    let of_x = || ListActivitiesRequest { account_id: "x".into(), ..Default::default() };
    let of = |resource_type: &str, id: &str| ListActivitiesRequest {
        resource_type: resource_type.into(),
        resource_id: id.into(),
        ..Default::default()
    };
    // From before the first activity of all, and open all the time.
    let mut watch = Watch::open(&manager, &sealed(&manager, "x", "0", "0"), "x").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), []);
    tenant.delete("x", "").await.unwrap();
    tenant.delete_organization("y", "").await.unwrap();
    for request in [of_x(), of("account", "x"), of("organization", "y")] {
        assert_eq!(manager.activities_by(request).await, []);
    }
    manager.account(account("x", "oslo")).await;
    manager.organization("y", "oslo").await;
    manager.rename("y", "mine").await.unwrap();

    for request in [of_x(), of("account", "x")] {
        assert_eq!(told(&manager.activities_by(request).await), ["account.created x"]);
    }
    assert_eq!(
        told(&manager.activities_by(of("organization", "y")).await),
        ["organization.created y", "organization.updated y"]
    );
    let all = manager.activities_by(ListActivitiesRequest::default()).await;
    assert!(!format!("{all:?}").contains("secret"), "{all:?}");
    assert_eq!(
        told(&all).iter().filter(|told| told.ends_with(" x") || told.ends_with(" y")).count(),
        3,
        "{all:?}"
    );
    let mut again = Watch::open(&manager, &sealed(&manager, "x", "0", "0"), "x").await.unwrap();
    for watch in [&mut watch, &mut again] {
        let activities = loop {
            let activities = watch.next().await.unwrap();
            if !activities.is_empty() {
                break activities;
            }
        };
        assert_eq!(told(&activities), ["account.created x"]);
    }
    // A tenant-wide caller finds everything that happened under the id.
    let whole = [
        "account.created x",
        "account.updated x",
        "account_organization.deleted x/rome",
        "account.deleted x",
        "account.created x",
    ];
    assert_eq!(told(&tenant.activities_by(of_x()).await), whole);
    assert_eq!(tenant.activities_by(of("organization", "y")).await.len(), 5);
    // A caller who reaches both incarnations is shown the current one.
    tenant.move_organization("south", "north").await.unwrap();
    assert_eq!(told(&manager.activities_by(of_x()).await), ["account.created x"]);
}

/// Every activity of an account or organization is recorded with its incarnation, so a caller who
/// sees the account or organization is shown all of them.
#[tokio::test]
async fn who_sees_an_account_or_organization_is_shown_everything_that_happened_to_it() {
    let (tenant, manager) = Tenant::regions().await;
    let id = "oslo-account";
    for person_id in ["ann", "bob", "sue"] {
        tenant.person(person_id).await;
    }
    tenant.account(account("other", "oslo")).await;
    for primary in ["other", id, "other"] {
        tenant.update(Account { is_primary: true, ..only(primary) }, &[]).await.unwrap();
    }
    tenant.add_user(id, "ann").await;
    let user = |person_id: &str| AccountUser {
        account_id: id.into(),
        person_id: person_id.into(),
        billing: true,
        ..Default::default()
    };
    tenant.update_user(user("ann"), &[]).await.unwrap();
    tenant.buys_on("ann", id).await.unwrap();
    tenant.buys_on("ann", "").await.unwrap();
    tenant.remove_user(id, "ann", "").await.unwrap();
    // What was set for users through an organization goes with their membership, the link, and the
    // place of the organization.
    for person_id in ["ann", "bob"] {
        tenant.add_member("rome", person_id).await.unwrap();
    }
    tenant.link(id, "rome", false).await.unwrap();
    for person_id in ["ann", "bob"] {
        tenant.update_user(user(person_id), &[]).await.unwrap();
    }
    tenant.remove_member("rome", "ann").await.unwrap();
    tenant.unlink(id, "rome").await.unwrap();
    tenant.organization("below", "south").await;
    tenant.add_member("below", "sue").await.unwrap();
    tenant.link(id, "south", true).await.unwrap();
    tenant.update_user(user("sue"), &[]).await.unwrap();
    tenant.move_organization("below", "").await.unwrap();
    tenant.rename("oslo", "Oslo").await.unwrap();
    tenant.move_organization("oslo", "").await.unwrap();
    tenant.move_organization("oslo", "north").await.unwrap();
    tenant.update(Account { organization_id: "north".into(), ..only(id) }, &[]).await.unwrap();

    let all = tenant.activities_by(ListActivitiesRequest::default()).await;
    let (accounts, organizations) = (["north-account", "other", id], ["north", "oslo"]);
    let belongs = |activity: &&Activity| {
        accounts.contains(&activity.account_id.as_str())
            || activity.resource_type == "organization"
                && organizations.contains(&activity.resource_id.as_str())
    };
    let expected: Vec<_> = all.iter().filter(belongs).cloned().collect();
    assert_eq!(manager.activities_by(ListActivitiesRequest::default()).await, expected);
    for wanted in [
        "account_user.created",
        "account_user.updated",
        "account_organization.deleted",
        "person.updated",
    ] {
        assert!(expected.iter().any(|activity| activity.action == wanted), "{wanted}");
    }
    assert_eq!(
        expected.iter().filter(|activity| activity.action == "account_user.deleted").count(),
        4
    );
}

#[tokio::test]
async fn pairs_of_ids_with_slashes_are_told_apart() {
    let tenant = Tenant::new().await;
    for id in ["o", "o/p", "p/q", "q", "p%2Fq"] {
        tenant.organization(id, "").await;
        tenant.person(id).await;
    }
    tenant.account(account("a", "o")).await;
    tenant.account(account("a/p", "o")).await;
    for (one, other) in [("a", "p/q"), ("a/p", "q"), ("a", "p%2Fq")] {
        tenant.add_user(one, other).await;
        tenant.link(one, other, false).await.unwrap();
    }
    for (one, other) in [("o", "p/q"), ("o/p", "q")] {
        tenant.add_member(one, other).await.unwrap();
    }
    tenant.set_module("contracts", "p/q", ModuleSetting::Off).await.unwrap();
    let created = async |resource_type: &str, resource_id: &str| {
        let (resource_type, resource_id) = (resource_type.into(), resource_id.into());
        tenant
            .activities_by(ListActivitiesRequest {
                resource_type,
                resource_id,
                ..Default::default()
            })
            .await
            .len()
    };
    for resource_type in ["account_user", "account_organization"] {
        for id in ["a/p%2Fq", "a%2Fp/q", "a/p%252Fq"] {
            assert_eq!(created(resource_type, id).await, 1, "{resource_type} {id}");
        }
    }
    for id in ["o/p%2Fq", "o%2Fp/q"] {
        assert_eq!(created("organization_member", id).await, 1, "{id}");
    }
    assert_eq!(created("module_activation", "contracts/p%2Fq").await, 1);
    // The longest ids there are, of nothing but slashes, can be asked for.
    let longest = format!("{0}/{0}", "%2F".repeat(50));
    assert_eq!(created("account_user", &longest).await, 0);
}

/// What the version before has written: two lives of each id, pairs of ids with slashes, and a
/// setting of a module.
const BEFORE: &str = "
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, create_time)
    SELECT 't', id, id, id, '2026-01-03Z' FROM (VALUES ('o'), ('o/p')) AS made (id);
INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, status, create_time)
    SELECT 't', id, id, id, 'o', 'ACTIVE', '2026-01-03Z' FROM (VALUES ('a'), ('a/b')) AS made (id);
INSERT INTO module_activations (tenant_id, organization_id, module, activation_id, active)
    VALUES ('t', 'o', 'contracts', 'contracts/o', false), ('t', 'o/p', 'contracts', 'contracts/o/p', false);
INSERT INTO activities (tenant_id, activity_id, transaction_id, ordinal, create_time, actor, method, action, resource_type,
        resource_id, account_id, changes)
    SELECT 't', row_number() OVER (ORDER BY n), n, 0, time::timestamptz, 'actor', 'm', type || '.' || verb, type, id, account, changes::jsonb
    FROM (VALUES
        (1, '2026-01-01Z', 'created', 'account', 'a', 'a', '[]'), (2, '2026-01-02Z', 'deleted', 'account', 'a', 'a', '[]'),
        (3, '2026-01-03Z', 'created', 'account', 'a', 'a', '[]'), (4, '2026-01-04Z', 'created', 'account_user', 'a/x', 'a', '[]'),
        -- Who created an account may have waited for the end of the transaction that deleted the one before.
        (5, '2026-01-03Z', 'created', 'account', 'a/b', 'a/b', '[]'), (6, '2026-01-04Z', 'deleted', 'account', 'a/b', 'a/b', '[]'),
        (7, '2026-01-05Z', 'created', 'account_user', 'a/b/c/d%', 'a/b', '[]'),
        (8, '2026-01-01Z', 'created', 'organization', 'o', NULL, '[]'), (9, '2026-01-02Z', 'deleted', 'organization', 'o', NULL, '[]'),
        (10, '2026-01-03Z', 'created', 'organization', 'o', NULL, '[]'),
        (11, '2026-01-04Z', 'created', 'organization_member', 'o/p/q/r', NULL,
            '[{\"field\": \"organization_id\", \"before\": null, \"after\": \"o/p\"}, {\"field\": \"person_id\", \"before\": null, \"after\": \"q/r\"}]'),
        (12, '2026-01-04Z', 'created', 'module_activation', 'contracts/o/p', NULL, '[]'),
        (13, '2026-01-04Z', 'updated', 'person', 'a/b', 'gone', '[]')
    ) AS told (n, time, verb, type, id, account, changes);
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_record_already_gets_the_incarnation_that_it_happened_to() {
    let Some(url) = real_database("migrating down takes a database of its own").await else {
        return;
    };
    let manager = Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None);
    let versions = migrate::run(&manager, migrate::Direction::Up).await.unwrap();
    let before = versions.iter().position(|version| version.ends_with("000012")).unwrap();
    migrate::run(&manager, migrate::Direction::Down(versions.len() - before)).await.unwrap();
    let sql = support::sql(&url).await;
    sql.batch_execute(BEFORE).await.unwrap();
    let ids = "SELECT array_agg(activation_id ORDER BY activation_id) FROM module_activations";
    migrate::run(&manager, migrate::Direction::Up).await.unwrap();
    let told = sql
        .query(
            "SELECT resource_id, activities.incarnation IS NOT NULL, activities.incarnation IS NOT DISTINCT FROM \
             coalesce(accounts.incarnation, organizations.incarnation) FROM activities \
             LEFT JOIN accounts USING (tenant_id, account_id) \
             LEFT JOIN organizations ON resource_type = 'organization' AND organizations.organization_id = resource_id ORDER BY transaction_id",
            &[],
        )
        .await
        .unwrap();
    let told: Vec<(String, bool, bool)> =
        told.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [
        ("a", false),
        ("a", false),
        ("a", true),
        ("a/x", true),
        ("a/b", false),
        ("a/b", false),
        ("a%2Fb/c%2Fd%25", true),
        ("o", false),
        ("o", false),
        ("o", true),
        ("o%2Fp/q%2Fr", false),
        ("contracts/o%2Fp", false),
        ("a/b", false),
    ];
    assert_eq!(told.len(), expected.len());
    for ((id, has_one, fits), (expected, present)) in told.iter().zip(expected) {
        assert_eq!(
            (id.as_str(), *has_one, *fits || !present),
            (expected, present, true),
            "{told:?}"
        );
    }
    assert_eq!(
        sql.query_one(ids, &[]).await.unwrap().get::<_, Vec<String>>(0),
        ["contracts/o", "contracts/o%2Fp"]
    );
    migrate::run(&manager, migrate::Direction::Down(versions.len() - before)).await.unwrap();
    assert_eq!(
        sql.query_one(ids, &[]).await.unwrap().get::<_, Vec<String>>(0),
        ["contracts/o", "contracts/o/p"]
    );
}

//! Listing the activity trail: who changed what, when, and through which call.

use customer_accounts::proto::{
    Account, Activity, ActivityOrderBy, AddAccountUserRequest, CreateAccountRequest, FieldChange,
    LinkOrganizationRequest, ListActivitiesRequest, RemoveAccountUserRequest, UpdateAccountRequest,
    WatchActivitiesRequest,
};
use prost_types::{Timestamp, Value, value::Kind};
use tonic::Status;

use crate::support::{
    self, Tenant, account,
    calls::{fields, mask, only},
    refusal, unique,
    watch::quiet,
};

const OLDEST_FIRST: i32 = ActivityOrderBy::CreateTime as i32;
const NEWEST_FIRST: i32 = ActivityOrderBy::CreateTimeDesc as i32;

impl Tenant {
    /// All activities that a request lists, read in pages of its size.
    async fn activities_of(&self, mut request: ListActivitiesRequest) -> Vec<Activity> {
        let mut all = Vec::new();
        loop {
            let response =
                self.activities().list_activities(request.clone()).await.unwrap().into_inner();
            all.extend(response.activities);
            if response.next_page_token.is_empty() {
                return all;
            }
            request.page_token = response.next_page_token;
        }
    }

    async fn try_activities(
        &self,
        request: ListActivitiesRequest,
    ) -> Result<Vec<Activity>, Status> {
        self.activities()
            .list_activities(request)
            .await
            .map(|response| response.into_inner().activities)
    }
}

fn oldest_first() -> ListActivitiesRequest {
    ListActivitiesRequest { order_by: OLDEST_FIRST, ..Default::default() }
}

/// What happened to what, as `account.created a`.
fn told(activities: &[Activity]) -> Vec<String> {
    activities
        .iter()
        .map(|activity| format!("{} {}", activity.action, activity.resource_id))
        .collect()
}

/// A change of a field, its values as JSON would have them.
fn change<'a>(activity: &'a Activity, field: &str) -> (&'a Kind, &'a Kind) {
    fn kind(value: Option<&Value>) -> &Kind {
        value.and_then(|value| value.kind.as_ref()).expect("a value, if only null")
    }
    let found = activity.changes.iter().find(|change| change.field == field);
    let FieldChange { before, after, .. } =
        found.unwrap_or_else(|| panic!("no {field}: {activity:?}"));
    (kind(before.as_ref()), kind(after.as_ref()))
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.into())
}

#[tokio::test]
async fn a_change_is_on_record_with_who_when_what_and_how() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let (jane, began) =
        (tenant.with_actor("jane"), tenant.activities_of(oldest_first()).await.pop().unwrap());
    let request_id = unique();
    let request = CreateAccountRequest {
        account: Some(account("a", "o")),
        request_id: request_id.clone(),
        ..Default::default()
    };
    jane.accounts().create_account(request).await.unwrap();
    tenant.update(Account { comment: "first".into(), ..only("a") }, &[]).await.unwrap();
    let nested = Account { comment: "second".into(), is_primary: true, ..only("a") };
    tenant.with_actor("joe").update(nested, &["comment", "is_primary"]).await.unwrap();
    tenant.delete("a", "").await.unwrap();

    let of_account = ListActivitiesRequest {
        resource_type: "account".into(),
        resource_id: "a".into(),
        ..oldest_first()
    };
    let activities = tenant.activities_of(of_account).await;
    assert_eq!(
        told(&activities),
        ["account.created a", "account.updated a", "account.updated a", "account.deleted a"]
    );
    let [created, first, second, deleted] = &activities[..] else { panic!("{activities:?}") };
    let who: Vec<_> = activities.iter().map(|activity| activity.actor.as_str()).collect();
    assert_eq!(who, ["jane", "tester", "joe", "tester"]);
    let how: Vec<_> =
        activities.iter().map(|activity| activity.method.rsplit_once('/').unwrap()).collect();
    let service = "accounts.v1.AccountService";
    let verbs = ["CreateAccount", "UpdateAccount", "UpdateAccount", "DeleteAccount"];
    assert_eq!(how, verbs.map(|verb| (service, verb)));
    assert_eq!((&*created.request_id, &*first.request_id), (&*request_id, ""));
    for activity in &activities {
        assert_eq!((&*activity.resource_type, &*activity.account_id), ("account", "a"));
        assert!(activity.activity_id.starts_with("actv_"), "{activity:?}");
    }
    let times: Vec<_> = [&began]
        .into_iter()
        .chain(&activities)
        .map(|activity| activity.create_time.unwrap())
        .collect();
    assert!(times.is_sorted_by_key(|time| (time.seconds, time.nanos)), "{times:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(times.iter().all(|time| time.seconds.unsigned_abs().abs_diff(now) < 3600), "{times:?}");

    assert_eq!(change(created, "display_name"), (&Kind::NullValue(0), &text("Account a")));
    assert_eq!(change(first, "comment"), (&Kind::NullValue(0), &text("first")));
    assert_eq!(first.changes.len(), 1);
    assert_eq!(change(second, "comment"), (&text("first"), &text("second")));
    assert_eq!(change(second, "is_primary"), (&Kind::BoolValue(false), &Kind::BoolValue(true)));
    assert_eq!(second.changes.len(), 2);
    assert_eq!(
        change(deleted, "display_name"),
        (&text("Account a"), &Kind::NullValue(0)),
        "the last snapshot"
    );
}

#[tokio::test]
async fn the_trail_of_an_account_has_its_users_and_links_and_survives_it() {
    let tenant = Tenant::new().await;
    for id in ["o", "partner"] {
        tenant.organization(id, "").await;
    }
    tenant.person("jane").await;
    tenant.account(account("a", "o")).await;
    tenant.account(account("b", "o")).await;
    let mut memberships = tenant.memberships();
    let (account_id, person_id) = ("a".to_owned(), "jane".to_owned());
    let add = AddAccountUserRequest {
        account_id: account_id.clone(),
        person_id: person_id.clone(),
        ..Default::default()
    };
    memberships.add_account_user(add).await.unwrap();
    let organization_id = "partner".to_owned();
    let link = LinkOrganizationRequest {
        account_id: account_id.clone(),
        organization_id,
        ..Default::default()
    };
    memberships.link_organization(link).await.unwrap();
    let remove = RemoveAccountUserRequest {
        account_id: account_id.clone(),
        person_id,
        ..Default::default()
    };
    memberships.remove_account_user(remove).await.unwrap();
    let before = tenant
        .activities_of(ListActivitiesRequest { account_id: account_id.clone(), ..oldest_first() })
        .await;
    let actions: Vec<_> = before.iter().map(|activity| activity.action.as_str()).collect();
    for action in [
        "account.created",
        "account_user.created",
        "account_organization.created",
        "account_user.deleted",
    ] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    assert!(before.iter().all(|activity| activity.account_id == "a"), "{before:?}");
    let user = before.iter().find(|activity| activity.action == "account_user.created").unwrap();
    let of_user = ListActivitiesRequest {
        resource_type: "account_user".into(),
        resource_id: user.resource_id.clone(),
        ..oldest_first()
    };
    assert_eq!(
        tenant.activities_of(of_user).await.len(),
        2,
        "what is between two resources is found by its id"
    );

    tenant.delete("a", "").await.unwrap();
    let after = tenant.activities_of(ListActivitiesRequest { account_id, ..oldest_first() }).await;
    assert_eq!(after[..before.len()], before, "nothing is lost with the account");
    assert!(told(&after).contains(&"account.deleted a".to_owned()));
}

#[tokio::test]
async fn what_changes_nothing_leaves_nothing() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let request = CreateAccountRequest {
        account: Some(account("a", "o")),
        request_id: unique(),
        ..Default::default()
    };
    for _ in 0..3 {
        tenant.accounts().create_account(request.clone()).await.unwrap();
    }
    let validated = CreateAccountRequest {
        account: Some(account("b", "o")),
        validate_only: true,
        ..Default::default()
    };
    tenant.accounts().create_account(validated).await.unwrap();
    let comment = || Account { comment: "c".into(), ..only("a") };
    let validated = UpdateAccountRequest {
        account: Some(comment()),
        validate_only: true,
        ..Default::default()
    };
    tenant.accounts().update_account(validated).await.unwrap();
    assert_eq!(
        refusal(tenant.update(Account { etag: "stale".into(), ..comment() }, &[]).await),
        "ETAG_MISMATCH"
    );
    tenant.update(only("a"), &["comment"]).await.unwrap();
    tenant.get("a").await.unwrap();
    let all = told(
        &tenant
            .activities_of(ListActivitiesRequest { account_id: "a".into(), ..oldest_first() })
            .await,
    );
    assert_eq!(all.iter().filter(|told| *told == "account.created a").count(), 1, "{all:?}");
    assert!(!all.iter().any(|told| told.contains("updated")), "{all:?}");
    let none = ListActivitiesRequest { account_id: "b".into(), ..Default::default() };
    assert_eq!(tenant.activities_of(none).await, []);
}

/// Six accounts, created by two actors in turn.
async fn six(tenant: &Tenant) {
    tenant.organization("o", "").await;
    for (n, id) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        tenant.with_actor(if n % 2 == 0 { "even" } else { "odd" }).account(account(id, "o")).await;
    }
}

#[tokio::test]
async fn filters_all_apply() {
    let tenant = Tenant::new().await;
    six(&tenant).await;
    tenant
        .with_actor("even")
        .update(Account { comment: "c".into(), ..only("b") }, &[])
        .await
        .unwrap();
    let accounts = || ListActivitiesRequest { resource_type: "account".into(), ..oldest_first() };
    let of = async |request| told(&tenant.activities_of(request).await);
    let created = ["a", "b", "c", "d", "e", "f"].map(|id| format!("account.created {id}"));
    let everything: Vec<_> = created.into_iter().chain(["account.updated b".to_owned()]).collect();
    assert_eq!(of(accounts()).await, everything);
    let even = ListActivitiesRequest { actor: "even".into(), ..accounts() };
    assert_eq!(
        of(even.clone()).await,
        ["account.created a", "account.created c", "account.created e", "account.updated b"]
    );
    let both = ListActivitiesRequest { account_id: "b".into(), ..even.clone() };
    assert_eq!(of(both.clone()).await, ["account.updated b"]);
    let all_of_them = ListActivitiesRequest { resource_id: "b".into(), ..both };
    assert_eq!(of(all_of_them.clone()).await, ["account.updated b"]);
    assert_eq!(
        of(ListActivitiesRequest { resource_id: "a".into(), ..all_of_them }).await,
        Vec::<String>::new()
    );
    for nothing in [
        ListActivitiesRequest { account_id: "never".into(), ..Default::default() },
        ListActivitiesRequest { actor: "never".into(), ..Default::default() },
        ListActivitiesRequest { resource_type: "never".into(), ..Default::default() },
        ListActivitiesRequest {
            resource_type: "account".into(),
            resource_id: "never".into(),
            ..Default::default()
        },
    ] {
        assert_eq!(of(nothing).await, Vec::<String>::new());
    }
    let stranger = Tenant::new().await;
    for request in [
        ListActivitiesRequest::default(),
        even,
        ListActivitiesRequest { account_id: "b".into(), ..accounts() },
    ] {
        assert_eq!(stranger.activities_of(request).await, [], "another tenant");
    }
}

#[tokio::test]
async fn time_ranges_have_their_start_and_not_their_end() {
    let tenant = Tenant::new().await;
    six(&tenant).await;
    let accounts = || ListActivitiesRequest { resource_type: "account".into(), ..oldest_first() };
    let all = tenant.activities_of(accounts()).await;
    let [.., first, _, _, last, _] = &all[..] else { panic!("{all:?}") };
    let between = |start_time: Option<Timestamp>, end_time: Option<Timestamp>| {
        let request = ListActivitiesRequest { start_time, end_time, ..accounts() };
        async { told(&tenant.activities_of(request).await) }
    };
    let (start, end) = (first.create_time, last.create_time);
    assert_eq!(
        between(start, end).await,
        ["account.created b", "account.created c", "account.created d"]
    );
    assert_eq!(between(start, None).await.len(), 5);
    assert_eq!(between(None, end).await.len(), 4);
    // A time between two microseconds is after the first.
    let later =
        |time: Option<Timestamp>| time.map(|time| Timestamp { nanos: time.nanos + 1, ..time });
    assert_eq!(
        between(later(start), later(end)).await,
        ["account.created c", "account.created d", "account.created e"]
    );
    let far = |seconds| Some(Timestamp { seconds, nanos: 0 });
    assert_eq!(between(far(-62_135_596_800), far(253_402_300_799)).await.len(), 6);
    assert_eq!(between(far(4_000_000_000), None).await, Vec::<String>::new());
}

#[tokio::test]
async fn pages_go_both_ways_and_hold_still() {
    let tenant = Tenant::new().await;
    six(&tenant).await;
    // From the second on each takes the flag from the one before: two changes in one transaction.
    for id in ["a", "b", "c", "d", "e", "f"] {
        tenant.update(Account { is_primary: true, ..only(id) }, &[]).await.unwrap();
    }
    let all =
        tenant.activities_of(ListActivitiesRequest { page_size: 1000, ..oldest_first() }).await;
    assert_eq!(all.len(), 18, "{:?}", told(&all));
    for page_size in [1, 2, 5] {
        assert_eq!(
            tenant.activities_of(ListActivitiesRequest { page_size, ..oldest_first() }).await,
            all
        );
        for order_by in [0, NEWEST_FIRST] {
            let mut back = tenant
                .activities_of(ListActivitiesRequest { page_size, order_by, ..Default::default() })
                .await;
            back.reverse();
            assert_eq!(back, all, "the newest first is the default");
        }
    }
    // What happens meanwhile comes before the first page, and moves none of the others.
    let request = ListActivitiesRequest { page_size: 4, ..Default::default() };
    let first = tenant.activities().list_activities(request.clone()).await.unwrap().into_inner();
    tenant.account(account("g", "o")).await;
    let rest =
        ListActivitiesRequest { page_token: first.next_page_token.clone(), ..request.clone() };
    let mut seen = [first.activities, tenant.activities_of(rest).await].concat();
    seen.reverse();
    assert_eq!(seen, all);

    let page_token = first.next_page_token;
    for other in [
        ListActivitiesRequest { actor: "even".into(), ..request.clone() },
        ListActivitiesRequest { order_by: OLDEST_FIRST, ..request.clone() },
        ListActivitiesRequest { start_time: Some(Timestamp::default()), ..request.clone() },
    ] {
        let answer = tenant
            .try_activities(ListActivitiesRequest { page_token: page_token.clone(), ..other })
            .await;
        assert_eq!(refusal(answer), "INVALID_PAGE_TOKEN");
    }
    let answer = Tenant::new()
        .await
        .try_activities(ListActivitiesRequest { page_token: page_token.clone(), ..request })
        .await;
    assert_eq!(refusal(answer), "INVALID_PAGE_TOKEN");
    let cursor = WatchActivitiesRequest { cursor: page_token, ..Default::default() };
    let answer = tenant.activities().watch_activities(cursor).await.map(drop);
    assert_eq!(refusal(answer), "INVALID_CURSOR");
}

#[tokio::test]
async fn all_mistakes_of_a_request_are_told_at_once() {
    let tenant = Tenant::new().await;
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    let request = ListActivitiesRequest {
        page_size: -1,
        order_by: 9,
        account_id: " a".into(),
        resource_id: "x".repeat(302),
        actor: "x".repeat(201),
        start_time: time(0, 1_000_000_000),
        end_time: time(i64::MAX, 0),
        ..Default::default()
    };
    let mut broken = fields(tenant.try_activities(request).await);
    broken.sort();
    let expected = [
        "account_id",
        "actor",
        "end_time",
        "order_by",
        "page_size",
        "resource_id",
        "resource_type",
        "start_time",
    ];
    assert_eq!(broken, expected);
    for (start_time, end_time) in [(time(5, 0), time(5, 0)), (time(6, 0), time(5, 999_999_999))] {
        let request = ListActivitiesRequest { start_time, end_time, ..Default::default() };
        assert_eq!(fields(tenant.try_activities(request).await), ["end_time"]);
    }
    let watch = WatchActivitiesRequest { account_id: "x".repeat(51), ..Default::default() };
    assert_eq!(fields(tenant.activities().watch_activities(watch).await.map(drop)), ["account_id"]);
}

/// A login that is a member of the service's role and nothing more, as OPERATIONS.md tells
/// operators to make one. On a server of the test's own: what must be refused here would reach
/// every database of a server, if it were not.
#[tokio::test]
async fn the_services_login_can_only_add_to_the_trail() {
    let Some(cluster) = quiet() else { return };
    let service = support::process::Service::on(&cluster.url(), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    six(&tenant).await;
    let owner = support::sql(&cluster.url()).await;
    owner.batch_execute("CREATE ROLE service LOGIN IN ROLE customer_accounts_app").await.unwrap();
    let sql = support::sql(&cluster.url().replace("postgres@", "service@")).await;
    let as_tenant =
        format!("SET ROLE customer_accounts_app; SET app.tenant_id = '{}'", tenant.caller.tenant);
    sql.batch_execute(&as_tenant).await.unwrap();
    let whole = "SELECT md5(string_agg(activities::text, ' ' ORDER BY activity_id)), count(*) FROM activities";
    let read = async || {
        let row = sql.query_one(whole, &[]).await.unwrap();
        (row.get::<_, Option<String>>(0), row.get::<_, i64>(1))
    };
    let before = read().await;
    assert_eq!(before.1, 7);
    for statement in [
        "UPDATE activities SET actor = 'nobody'",
        "UPDATE activities SET changes = '[]' WHERE false",
        "DELETE FROM activities",
        "TRUNCATE activities",
        "DROP TABLE activities",
        "ALTER TABLE activities DROP COLUMN actor",
        "ALTER TABLE activities DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE activities NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE activities OWNER TO customer_accounts_app",
        "DROP POLICY tenant ON activities",
        "CREATE POLICY mine ON activities USING (true)",
        "CREATE TRIGGER mine BEFORE INSERT ON activities EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE mine AS ON INSERT TO activities DO INSTEAD NOTHING",
        "DROP INDEX activities_feed_idx",
        "SELECT * FROM activities FOR UPDATE",
        "MERGE INTO activities AS a USING activities AS b ON a.activity_id = b.activity_id WHEN MATCHED THEN DELETE",
        "SET ROLE customer_accounts_owner",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
        "ALTER ROLE customer_accounts_app BYPASSRLS",
        "SET row_security = off; SELECT * FROM activities",
    ] {
        let refused = sql.batch_execute(statement).await.err();
        let code = refused
            .as_ref()
            .and_then(tokio_postgres::Error::code)
            .map(tokio_postgres::error::SqlState::code);
        assert_eq!(code, Some("42501"), "{statement}: insufficient privilege");
        sql.batch_execute("RESET row_security").await.unwrap();
    }
    // This is only warned about, and does nothing.
    sql.batch_execute("GRANT UPDATE, DELETE, TRUNCATE ON activities TO customer_accounts_app")
        .await
        .unwrap();
    let may =
        "SELECT has_table_privilege('activities', 'UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')";
    assert!(!sql.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(read().await, before);
}

#[tokio::test]
async fn a_mask_does_not_hide_what_changed() {
    let tenant = Tenant::new().await;
    six(&tenant).await;
    let request = UpdateAccountRequest {
        account: Some(Account { comment: "c".into(), description: "ignored".into(), ..only("a") }),
        update_mask: mask(&["comment"]),
        ..Default::default()
    };
    tenant.accounts().update_account(request).await.unwrap();
    let latest = tenant
        .try_activities(ListActivitiesRequest { page_size: 1, ..Default::default() })
        .await
        .unwrap();
    assert_eq!(
        latest[0].changes.iter().map(|change| &*change.field).collect::<Vec<_>>(),
        ["comment"]
    );
}

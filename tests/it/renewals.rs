//! Renewals: rows whose words and sort keys an earlier version wrote are found like those that this
//! version writes.

use std::time::Duration;

use customer_accounts::{
    db::{Manager, migrate},
    proto::{
        Account, AccountType, AddAccountUserRequest, Contact, GetAccountTypeRequest,
        ListAccountUsersRequest, ListAccountsRequest, ListOpportunitiesRequest,
        ListOrganizationsRequest, ListPeopleRequest, ListPortfoliosRequest, Opportunity,
        Organization, Person, Portfolio, PortfolioItemState, UpdateAccountTypeRequest,
        UpdateOrganizationRequest,
    },
    renew,
};

use crate::support::{
    self, Tenant, account,
    calls::{account_type, only, only_person, person},
    eventually,
    process::{Service, run},
    real_database,
    sales::{item, opportunity, portfolio},
};

/// What a version before would have written: another folding, and no stamp.
const BEFORE: &str = "
    UPDATE people SET sort_key = 'before ' || person_id, folded = 0;
    UPDATE organizations SET sort_key = 'before ' || organization_id, folded = 0;
    UPDATE accounts SET sort_key = 'before ' || account_id, folded = 0;
    DELETE FROM person_words; DELETE FROM organization_words; DELETE FROM account_words WHERE word NOT LIKE '@%';
    INSERT INTO person_words (tenant_id, person_id, word) SELECT tenant_id, person_id, 'before' FROM people;
    INSERT INTO organization_words (tenant_id, organization_id, word) SELECT tenant_id, organization_id, 'before' FROM organizations;
    INSERT INTO account_words (tenant_id, account_id, word) SELECT tenant_id, account_id, 'before' FROM accounts;
    DELETE FROM renewals";

/// What is not as this version writes it: 0 of each if all is.
const WRONG: &str = "SELECT
    (SELECT count(*) FROM people WHERE folded <> revision * 1000 + 2 OR sort_key LIKE 'before%')
    + (SELECT count(*) FROM organizations WHERE folded <> revision * 1000 + 2 OR sort_key LIKE 'before%')
    + (SELECT count(*) FROM accounts WHERE folded <> revision * 1000 + 2 OR sort_key LIKE 'before%')
    + (SELECT count(*) FROM person_words WHERE word = 'before') + (SELECT count(*) FROM organization_words WHERE word = 'before')
    + (SELECT count(*) FROM account_words WHERE word = 'before')
    + (SELECT count(*) FROM account_users JOIN people USING (tenant_id, person_id) WHERE account_users.sort_key <> people.sort_key)
    + (SELECT count(*) FROM organization_members JOIN people USING (tenant_id, person_id)
       WHERE organization_members.sort_key <> people.sort_key)";

async fn wrong(sql: &tokio_postgres::Client) -> i64 {
    sql.query_one(WRONG, &[]).await.unwrap().get(0)
}

async fn migrate(url: &str) -> String {
    let migrated = run(&["migrate"], &[("DATABASE_URL", url)]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    migrated.stdout.lines().last().unwrap().to_owned()
}

/// A tenant with something of everything.
async fn one_of_everything(tenant: &Tenant) {
    tenant.try_organization("o", "株式会社トヨタ自動車").await;
    tenant.account_type("t").await;
    let email = "संपर्क@डाटामेल.भारत".to_owned();
    tenant.try_person(Person { display_name: "がく".into(), email, ..person("p") }).await.unwrap();
    tenant.add_member("o", "p").await.unwrap();
    let contact =
        Some(Contact { name: "O’Brien".into(), email: "a@b".into(), ..Default::default() });
    let named = |id: &str, name: &str| Account { display_name: name.into(), ..account(id, "o") };
    tenant.account(Account { primary_contact: contact, ..named("inline", "C++ Builders") }).await;
    let of_person = Some(Contact { person_id: "p".into(), ..Default::default() });
    tenant.account(Account { primary_contact: of_person, ..named("of-person", "Straße") }).await;
    let user = AddAccountUserRequest {
        account_id: "inline".into(),
        person_id: "p".into(),
        ..Default::default()
    };
    tenant.memberships().add_account_user(user).await.unwrap();
}

impl Tenant {
    async fn try_organization(&self, id: &str, name: &str) {
        let organization = Organization {
            organization_id: id.into(),
            display_name: name.into(),
            ..Default::default()
        };
        let request = customer_accounts::proto::CreateOrganizationRequest {
            organization: Some(organization),
            ..Default::default()
        };
        self.organizations().create_organization(request).await.unwrap();
    }

    /// What searches find: of accounts, organizations, people and users.
    async fn found(&self) -> [Vec<String>; 5] {
        let accounts = async |query: &str| {
            self.list(ListAccountsRequest { query: query.into(), ..Default::default() }).await
        };
        let organizations =
            ListOrganizationsRequest { query: "トヨタ".into(), ..Default::default() };
        let organizations = self
            .organizations()
            .list_organizations(organizations)
            .await
            .unwrap()
            .into_inner()
            .organizations;
        let users = ListAccountUsersRequest {
            account_id: "inline".into(),
            query: "डाटामेल".into(),
            ..Default::default()
        };
        let users =
            self.memberships().list_account_users(users).await.unwrap().into_inner().account_users;
        [
            [accounts("c++ o'brien").await, accounts("strasse").await].concat(),
            accounts("がく").await,
            organizations.into_iter().map(|it| it.organization_id).collect(),
            self.list_people(ListPeopleRequest {
                query: "संपर्क".into(), ..Default::default()
            })
            .await,
            users.into_iter().map(|it| it.person_id).collect(),
        ]
    }
}

fn all_found() -> [Vec<String>; 5] {
    [&["inline", "of-person"][..], &["of-person"], &["o"], &["p"], &["p"]]
        .map(|ids| ids.iter().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_version_before_are_renewed_and_nothing_else_of_them_changes() {
    let Some(url) = real_database("renewals need a second connection").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenants = [Tenant::on(service.channel().await), Tenant::on(service.channel().await)];
    for tenant in &tenants {
        one_of_everything(tenant).await;
        assert_eq!(tenant.found().await, all_found());
    }
    let sql = support::sql(&url).await;
    assert_eq!(
        (wrong(&sql).await, migrate(&url).await),
        (0, "renewed: 0 rows".to_owned()),
        "the service stamps what it writes"
    );
    let before = tenants[0].get("of-person").await.unwrap();
    let page = ListAccountsRequest { page_size: 1, ..Default::default() };
    let token = tenants[0]
        .accounts()
        .list_accounts(page.clone())
        .await
        .unwrap()
        .into_inner()
        .next_page_token;

    sql.batch_execute(BEFORE).await.unwrap();
    assert_ne!(tenants[0].found().await, all_found());
    // Tenants are found without a row of their own.
    sql.batch_execute("DELETE FROM tenants").await.unwrap();
    assert_eq!(migrate(&url).await, "renewed: 8 rows");
    assert_eq!(wrong(&sql).await, 0);
    for tenant in &tenants {
        assert_eq!(tenant.found().await, all_found());
    }
    assert_eq!(tenants[0].get("of-person").await.unwrap(), before, "with etag and times");
    let rest = tenants[0].list(ListAccountsRequest { page_token: token, ..page }).await;
    assert_eq!(rest, ["of-person"], "a page token from before goes on");
    assert_eq!(migrate(&url).await, "renewed: 0 rows");

    // A replica of the version before knows nothing of stamps.
    sql.batch_execute(
        "UPDATE people SET display_name = 'かく', sort_key = 'before', revision = revision + 1 WHERE person_id = 'p'; \
         INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key) VALUES ('new', 'n', 'N', 'before'); \
         INSERT INTO people (tenant_id, person_id, display_name, sort_key, kind) VALUES ('newer', 'n', 'N', 'before', 'CUSTOMER')",
    )
    .await
    .unwrap();
    assert_eq!(
        migrate(&url).await,
        "renewed: 4 rows",
        "also of tenants with nothing but an organization or a person"
    );
    assert_eq!(wrong(&sql).await, 0);
    // Every change of a row by this version keeps its stamp right, and renews it where it was
    // wrong.
    sql.batch_execute(BEFORE).await.unwrap();
    let tenant = &tenants[0];
    tenant
        .update(Account { comment: "new".into(), is_primary: true, ..only("inline") }, &[])
        .await
        .unwrap();
    tenant.update(Account { is_primary: true, ..only("of-person") }, &[]).await.unwrap();
    let of_inline = "SELECT count(*) FROM accounts WHERE account_id IN ('inline', 'of-person') AND folded = revision * 1000 + 2";
    assert_eq!(sql.query_one(of_inline, &[]).await.unwrap().get::<_, i64>(0), 2);
    assert_eq!(
        tenant.list(ListAccountsRequest { query: "c++".into(), ..Default::default() }).await,
        ["inline"]
    );
    tenant.update_person(Person { phone: "1".into(), ..only_person("p") }, &[]).await.unwrap();
    let organization = Organization { organization_id: "o".into(), ..Default::default() };
    let metadata = [("erp".to_owned(), "1".to_owned())].into();
    let request = UpdateOrganizationRequest {
        organization: Some(Organization { metadata, ..organization }),
        ..Default::default()
    };
    tenant.organizations().update_organization(request).await.unwrap();
    tenant.organization("top", "").await;
    tenant.move_organization("o", "top").await.unwrap();
    // The person has another name by now.
    let mut expected = all_found();
    expected[1].clear();
    assert_eq!(tenant.found().await, expected);
    let of_tenant = "SELECT array_agg(id || ' ' || folded - revision * 1000 ORDER BY id) FROM ( \
        SELECT tenant_id, organization_id AS id, folded, revision FROM organizations \
        UNION ALL SELECT tenant_id, person_id, folded, revision FROM people) AS rows WHERE tenant_id = $1";
    let of_tenant = sql.query_one(of_tenant, &[&tenant.caller.tenant]).await.unwrap();
    assert_eq!(of_tenant.get::<_, Vec<String>>(0), ["o 2", "p 2", "top 2"]);
}

/// Two types that were two names are one name now. Neither is lost, and both can be changed.
#[tokio::test(flavor = "multi_thread")]
async fn types_whose_names_are_the_same_now_keep_their_names() {
    let Some(url) = real_database("renewals need a second connection").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    for (id, name) in [("a", "Straße"), ("b", "other"), ("c", "Ὀδός")] {
        tenant
            .try_account_type(AccountType { display_name: name.into(), ..account_type(id) })
            .await
            .unwrap();
    }
    let sql = support::sql(&url).await;
    let plant = "UPDATE account_types SET name_key = 'straße' WHERE account_type_id = 'a'; \
        UPDATE account_types SET display_name = 'STRASSE', name_key = 'strasse' WHERE account_type_id = 'b'; \
        UPDATE account_types SET name_key = 'before' WHERE account_type_id = 'c'";
    sql.batch_execute(plant).await.unwrap();
    let migrated = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    assert!(
        migrated.stdout.ends_with("renewed: 1 rows\n") && migrated.code == Some(0),
        "{migrated:?}"
    );
    assert!(
        migrated.stderr.contains("Straße") && migrated.stderr.contains("STRASSE"),
        "both are named: {}",
        migrated.stderr
    );
    for (id, name) in [("a", "Straße"), ("b", "STRASSE"), ("c", "Ὀδός")] {
        let description = "new".to_owned();
        let changed = AccountType { account_type_id: id.into(), description, ..Default::default() };
        let request =
            UpdateAccountTypeRequest { account_type: Some(changed), ..Default::default() };
        tenant.account_types().update_account_type(request).await.unwrap();
        let get = GetAccountTypeRequest { account_type_id: id.into() };
        let kept = tenant
            .account_types()
            .get_account_type(get)
            .await
            .unwrap()
            .into_inner()
            .account_type
            .unwrap();
        assert_eq!(kept.display_name, name);
    }
}

/// A renewal that is interrupted goes on where it was; a service waits for it, and does it itself
/// where it may.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_renewal_goes_on_and_a_service_waits_for_its_end() {
    let Some(url) = real_database("renewals need a second connection").await else { return };
    let manager = || Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None);
    migrate::run(&manager(), migrate::Direction::Up).await.unwrap();
    let sql = support::sql(&url).await;
    let fill = "SET app.tenant_id = 'many'; INSERT INTO organizations (organization_id, display_name, sort_key) \
        SELECT 'o' || lpad(n::text, 5, '0'), 'Name ' || n, 'before' FROM generate_series(1, 1300) AS n; DELETE FROM renewals";
    sql.batch_execute(fill).await.unwrap();
    // In the second batch somebody holds a row.
    let holder = support::sql(&url).await;
    holder
        .batch_execute(
            "BEGIN; SELECT FROM organizations WHERE organization_id = 'o00700' FOR UPDATE",
        )
        .await
        .unwrap();
    let renewal = tokio::spawn({
        let manager = manager();
        async move { renew::run(&manager).await }
    });
    let left = "SELECT count(*) FROM organizations WHERE sort_key = 'before'";
    let left = async || sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0);
    eventually(Duration::from_secs(20), "the first batch", async || {
        (left().await == 800).then_some(())
    })
    .await;
    support::waiting_for_locks(&sql, 1).await;
    // Longer than it waits for a lock. Then it tries again.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    support::waiting_for_locks(&sql, 1).await;
    renewal.abort();

    let arguments = ["serve", "--listen", "127.0.0.1:0", "--migrate", "false"];
    let refused = run(
        &arguments,
        &[("DATABASE_URL", &url), ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "true")],
    )
    .await;
    assert!(
        refused.code == Some(1) && refused.stderr.contains("run `customer-accounts migrate`"),
        "{refused:?}"
    );
    assert_eq!(left().await, 800);
    holder.batch_execute("COMMIT").await.unwrap();
    let service = Service::on(&url, &[]).await;
    assert_eq!(
        (left().await, wrong(&sql).await),
        (0, 0),
        "the service has done it before it serves"
    );
    let mut tenant = Tenant::on(service.channel().await);
    tenant.caller.tenant = "many".into();
    let found = ListOrganizationsRequest { query: "name 700".into(), ..Default::default() };
    assert_eq!(
        tenant
            .organizations()
            .list_organizations(found)
            .await
            .unwrap()
            .into_inner()
            .organizations
            .len(),
        1
    );
}

/// Several renewals run at once while callers rename the same rows. At the end all words and sort
/// keys are current.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_and_calls_do_not_spoil_each_other() {
    let Some(url) = real_database("renewals need a second connection").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    for n in 0..40 {
        tenant.person(&format!("p{n}")).await;
        tenant.add_member("o", &format!("p{n}")).await.unwrap();
    }
    let sql = support::sql(&url).await;
    sql.batch_execute(BEFORE).await.unwrap();
    let renewals: Vec<_> = (0..3)
        .map(|_| {
            let manager = Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None);
            tokio::spawn(async move { renew::run(&manager).await.unwrap() })
        })
        .collect();
    for n in 0..40 {
        let renamed = Person {
            person_id: format!("p{n}"),
            display_name: format!("Renamed {n}"),
            ..Default::default()
        };
        tenant.update_person(renamed, &[]).await.unwrap();
    }
    for renewal in renewals {
        renewal.await.unwrap();
    }
    assert_eq!(wrong(&sql).await, 0);
    let found = tenant
        .list_people(ListPeopleRequest {
            query: "renamed".into(),
            page_size: 1000,
            ..Default::default()
        })
        .await;
    assert_eq!(found.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn portfolios_with_their_items_and_opportunities_are_renewed() {
    let Some(url) = real_database("renewals need a second connection").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.try_organization("o", "O").await;
    tenant.account(account("a", "o")).await;
    let items = vec![item("net-1", PortfolioItemState::Active)];
    let display_name = "株式会社トヨタ".to_owned();
    let made = Portfolio { items, display_name, ..portfolio("p", "a") };
    let made = tenant.portfolio(made).await;
    tenant.opportunity(Opportunity { stage: "Straße".into(), ..opportunity("x", "a") }).await;
    let found = async || {
        let by_words =
            |query: &str| ListPortfoliosRequest { query: query.into(), ..Default::default() };
        let by_code = ListPortfoliosRequest { item_code: "NET-1".into(), ..Default::default() };
        let by_stage = ListOpportunitiesRequest { query: "strasse".into(), ..Default::default() };
        [
            tenant.portfolios_of(by_words("トヨタ")).await,
            tenant.portfolios_of(by_words("net-")).await,
            tenant.portfolios_of(by_code).await,
            tenant.opportunities_of(by_stage).await,
        ]
        .concat()
    };
    let all = ["p", "p", "p", "x"];
    assert_eq!(found().await, all);
    let sql = support::sql(&url).await;
    let before = "UPDATE portfolios SET sort_key = 'before', folded = 0; UPDATE portfolio_items SET code_key = 'before'; \
        UPDATE opportunities SET sort_key = 'before', folded = 0; \
        DELETE FROM portfolio_words; DELETE FROM opportunity_words; DELETE FROM renewals";
    sql.batch_execute(before).await.unwrap();
    assert_eq!(found().await, [""; 0]);
    assert_eq!(migrate(&url).await, "renewed: 2 rows");
    assert_eq!(found().await, all);
    let keys = "SELECT count(*) FROM portfolios, opportunities WHERE portfolios.sort_key = 'before' OR opportunities.sort_key = 'before'";
    assert_eq!(sql.query_one(keys, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(tenant.get_portfolio("p").await.unwrap(), made, "with etag and times");
    // An update renews what it finds outdated.
    sql.batch_execute(before).await.unwrap();
    let update = Portfolio { description: "new".into(), ..portfolio("p", "a") };
    tenant.update_portfolio(update, &["description"]).await.unwrap();
    tenant.opportunity(Opportunity { stage: "Straße".into(), ..opportunity("x", "a") }).await;
    tenant.opportunity(Opportunity { stage: "Straße 2".into(), ..opportunity("x", "a") }).await;
    assert_eq!(found().await, ["p", "p", "x"], "the keys of items only with the items");
}

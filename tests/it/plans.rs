//! How PostgreSQL answers the queries of the service: by index, however many rows there are and
//! however deep the page is.
//!
//! The plans are those of the statements that the running service sends, prepared and with
//! row-level security as ever.

mod commerce;
mod contracts;
mod memberships;
mod reach;
mod sales;
mod tenants;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use customer_accounts::{
    db::{Db, Manager, migrate},
    proto::{
        Account, BatchGetAccountsRequest, CheckMembershipRequest, CreateAccountRequest,
        GetAccountRequest, GetAccountTypeRequest, GetOrganizationRequest, ListAccountTypesRequest,
        ListAccountUsersRequest, ListAccountsRequest, ListBillingRecipientsRequest,
        ListOrganizationMembersRequest, ListOrganizationsRequest, ListPeopleRequest,
        ListPersonAccountsRequest, ModuleSetting::Off, UpdateAccountRequest,
    },
    server,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::OnceCell, time::Duration};

use crate::support::{
    self, Tenant, config, connect, copied_database, has_real_server, real_database, tap::Tap,
};

/// Accounts of the tenant that asks, and of all others together.
const ACCOUNTS: i32 = 30_000;
const OTHERS: i32 = 5_000;
/// After so many executions, PostgreSQL may take a generic plan for a prepared statement.
const CUSTOM_PLANS: usize = 5;
/// Pages of tables and indexes that a page of 50 rows may take when an index has its order: about
/// one a row.
pub const FEW: i64 = 120;

/// Two words a name, so that they are more or less frequent; ids, names and words as the service
/// writes them.
const FILL: &str = "
CREATE TEMP TABLE syllables AS SELECT n, (ARRAY['alpha','beta','gamma','delta','epsilon','zeta','eta','theta','iota','kappa'])[1 + n % 10]
    || CASE WHEN n >= 10 THEN (ARRAY['lo','mi','ra','tu','ve','xo','zy','qui','pe','sa'])[n / 10] ELSE '' END AS word
    FROM generate_series(0, 99) AS n;
CREATE TEMP TABLE filled AS SELECT CASE WHEN f.n <= $accounts THEN '$tenant' ELSE 'other-' || f.n % 3 END AS tenant,
    'acct-' || lpad(f.n::text, 7, '0') AS id, initcap(a.word) || ' ' || initcap(b.word) AS name, f.n, a.word AS first, b.word AS second
    FROM generate_series(1, $accounts + $others) AS f (n)
    -- A few first words are frequent, most are not; the second has nothing to do with the first.
    JOIN syllables AS a ON a.n = (sqrt((hashint4(f.n) & 9999)::float8))::int % 100
    JOIN syllables AS b ON b.n = (hashint4(f.n + 1000000) & 1023) % 100;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, parent_id)
    SELECT tenant, 'org-' || n, 'Unit ' || n, 'unit ' || n, NULL
    FROM (SELECT DISTINCT tenant FROM filled) AS tenants CROSS JOIN generate_series(0, 9) AS n;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, parent_id)
    SELECT tenant, 'org-' || n, 'Unit ' || n, 'unit ' || n, 'org-' || n % 10
    FROM (SELECT DISTINCT tenant FROM filled) AS tenants CROSS JOIN generate_series(10, 999) AS n;
INSERT INTO organization_words (tenant_id, organization_id, word)
    SELECT DISTINCT tenant_id, organization_id, unnest(ARRAY['org', organization_id, substr(organization_id, 5), 'unit']) FROM organizations;
INSERT INTO account_types (tenant_id, account_type_id, display_name, name_key)
    SELECT tenant, 'type-' || n, 'Type ' || n, 'type ' || n FROM (SELECT DISTINCT tenant FROM filled) AS tenants CROSS JOIN generate_series(0, 199) AS n;
INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, account_type_id, status, is_primary,
    create_time, update_time)
    SELECT tenant, id, name, lower(name), 'org-' || CASE WHEN n % 10 = 0 THEN 0 ELSE n % 1000 END,
        CASE WHEN n % 100 = 0 THEN 'type-' || n / 100 % 200 WHEN n % 2 = 0 THEN 'type-0' END,
        CASE WHEN n % 100 = 1 THEN 'INACTIVE' WHEN n % 50 = 2 THEN 'SUSPENDED' ELSE 'ACTIVE' END,
        n BETWEEN 1001 AND 1999 AND n % 10 <> 0, '2026-01-01Z'::timestamptz + n * interval '1 second',
        '2026-02-01Z'::timestamptz + (n * 7919 % 100000) * interval '1 second' FROM filled;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant, id, E'\\x01erp=' || n FROM filled UNION ALL
    SELECT tenant, id, E'\\x01region=' || CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END FROM filled;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT DISTINCT tenant, id, unnest(ARRAY['acct', id, substr(id, 6), first, second]) FROM filled;
-- A tenth of the accounts, all of them at the end of the alphabet.
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant, id, 'late' FROM filled WHERE name LIKE 'Zeta%';
";

/// A tree of 2,000 organizations, each with up to 8 children, 500 organizations without parent or
/// children, accounts and people in all of them, and one organization of 18,000 people. Two thirds
/// of the accounts are in the tree.
const TREE: &str = "
SET session_replication_role = replica; -- foreign keys hold by construction
CREATE TEMP TABLE tenant_names AS VALUES ('$tenant'), ('other-0'), ('other-1');
CREATE TEMP TABLE units AS SELECT n, 'unit-' || n AS id, CASE WHEN n BETWEEN 2 AND 2000 THEN (n + 6) / 8 END AS parent
    FROM generate_series(1, 2500) AS n;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, parent_id)
    SELECT column1, id, 'Unit ' || n, 'unit ' || n, 'unit-' || parent FROM tenant_names CROSS JOIN units;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key)
    SELECT column1, id, id, id FROM tenant_names CROSS JOIN (VALUES ('crowd')) AS x (id);
WITH RECURSIVE closure (n, above, distance) AS (
    SELECT n, n, 0 FROM units UNION ALL
    SELECT closure.n, units.parent, distance + 1 FROM closure JOIN units ON units.n = above WHERE parent IS NOT NULL)
INSERT INTO organization_ancestors (tenant_id, organization_id, ancestor_id, distance)
    SELECT column1, 'unit-' || n, 'unit-' || above, distance FROM tenant_names CROSS JOIN closure;
INSERT INTO organization_ancestors (tenant_id, organization_id, ancestor_id, distance)
    SELECT column1, id, id, 0 FROM tenant_names CROSS JOIN (VALUES ('crowd')) AS x (id);
CREATE TEMP TABLE syllables AS SELECT n, (ARRAY['alpha','beta','gamma','delta','epsilon','zeta','eta','theta','iota','kappa'])[1 + n % 10]
    || CASE WHEN n >= 10 THEN (ARRAY['lo','mi','ra','tu','ve','xo','zy','qui','pe','sa'])[n / 10] ELSE '' END AS word
    FROM generate_series(0, 99) AS n;
CREATE TEMP TABLE filled AS SELECT CASE WHEN f.n <= 50000 THEN '$tenant' ELSE 'other-' || f.n % 2 END AS tenant, f.n,
    a.word AS first, b.word AS second FROM generate_series(1, 55000) AS f (n)
    JOIN syllables AS a ON a.n = (sqrt((hashint4(f.n) & 9999)::float8))::int % 100
    JOIN syllables AS b ON b.n = (hashint4(f.n + 1000000) & 1023) % 100;
INSERT INTO people (tenant_id, person_id, display_name, sort_key, email, kind, create_time)
    SELECT tenant, 'pers-' || n, initcap(first) || ' ' || initcap(second), first || ' ' || second, first || '.' || n || '@acme.example',
        CASE WHEN n % 500 = 0 THEN 'STAFF' ELSE 'CUSTOMER' END, '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled;
INSERT INTO person_words (tenant_id, person_id, word)
    SELECT DISTINCT tenant, 'pers-' || n, unnest(ARRAY['pers-' || n, n::text, first, second, 'acme.example']) FROM filled;
INSERT INTO organization_members (tenant_id, organization_id, person_id, sort_key, person_create_time)
    SELECT tenant, 'unit-' || 1 + n % 2500, 'pers-' || n, first || ' ' || second, '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled;
INSERT INTO organization_members (tenant_id, organization_id, person_id, sort_key, person_create_time)
    SELECT tenant, 'crowd', 'pers-' || n, first || ' ' || second, '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled WHERE hashint4(n + 7) & 255 < 92 ORDER BY hashint4(n);
INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, status, account_manager_id, create_time)
    SELECT tenant, 'acct-' || n, initcap(second) || ' ' || initcap(first) || ' ' || n, second || ' ' || first || ' ' || n,
        'unit-' || CASE WHEN n % 3 = 0 THEN 2001 + n % 500 ELSE 1 + n % 2000 END, 'ACTIVE',
        CASE WHEN n % 10 = 0 THEN 'pers-500' WHEN n % 50 = 1 THEN 'pers-' || 1000 + n / 50 % 90 * 500 END,
        '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled WHERE n <= 30000 OR tenant <> '$tenant';
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT DISTINCT tenant, 'acct-' || n, unnest(ARRAY['acct-' || n, n::text, first, second]) FROM filled WHERE n <= 30000 OR tenant <> '$tenant';
SET session_replication_role = DEFAULT;
";

/// A database full of a tenant's rows.
#[derive(Clone)]
struct Filled {
    url: String,
    tenant: String,
}

/// Databases by the statements that have filled them. Tests use copies: to copy one takes a
/// fraction of the time.
static TEMPLATES: Mutex<BTreeMap<String, Arc<OnceCell<Filled>>>> = Mutex::new(BTreeMap::new());

impl Filled {
    /// A database of the test's own, filled by these statements.
    async fn new(fill: &str, why: &str) -> Option<Self> {
        if !has_real_server(why) {
            return None;
        }
        let template = TEMPLATES.lock().unwrap().entry(fill.to_owned()).or_default().clone();
        let filled = template.get_or_try_init(async || Self::fill(fill, why).await.ok_or(()));
        let Self { url, tenant } = filled.await.ok()?.clone();
        Some(Self { url: copied_database(&url).await, tenant })
    }

    async fn fill(fill: &str, why: &str) -> Option<Self> {
        let url = real_database(why).await?;
        migrate::run(
            &Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None),
            migrate::Direction::Up,
        )
        .await
        .unwrap();
        let tenant = format!("t-{}", support::unique());
        let values = [
            ("$tenant", tenant.as_str()),
            ("$accounts", &ACCOUNTS.to_string()),
            ("$others", &OTHERS.to_string()),
        ];
        let fill =
            values.iter().fold(fill.to_owned(), |sql, (name, value)| sql.replace(name, value));
        let sql = support::sql(&url).await;
        sql.batch_execute(&fill).await.unwrap();
        sql.batch_execute("VACUUM ANALYZE").await.unwrap();
        Some(Self { url, tenant })
    }

    /// A service with a pool of one that logs in so.
    async fn serve(&self, login: tokio_postgres::Config) -> Tenant {
        let db = Db::new(
            Manager::new(login, Some("customer_accounts_app".into())),
            1,
            Duration::from_secs(1),
            None,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = config(&["--watch-checkpoint-interval", "500ms"]);
        tokio::spawn(
            async move { server::serve(listener, db, &config, std::future::pending()).await },
        );
        let mut tenant = Tenant::on(connect(address).await);
        tenant.caller.tenant.clone_from(&self.tenant);
        tenant
    }
}

pub struct Measured {
    pub tap: Tap,
    pub tenant: Tenant,
}

impl Measured {
    /// A service with a pool of one on a database full of accounts.
    async fn start(why: &str) -> Option<Self> {
        Self::start_with(FILL, why).await
    }

    /// Starts the service on a database filled by these statements.
    pub async fn start_with(fill: &str, why: &str) -> Option<Self> {
        let filled = Filled::new(fill, why).await?;
        Some(Self::on(&filled).await)
    }

    /// A service with a pool of one on a database that is full already.
    async fn on(filled: &Filled) -> Self {
        let tap = Tap::on(&filled.url).await;
        let tenant = filled.serve(tap.login(&filled.url)).await;
        Self { tap, tenant }
    }

    /// Waits until PostgreSQL has explained everything up to now.
    pub async fn settle(&self) {
        // On its one connection the service answers this after the call before has ended, and
        // PostgreSQL has explained it.
        let settled = GetAccountTypeRequest { account_type_id: "settled".into() };
        self.tenant.account_types().get_account_type(settled).await.unwrap_err();
    }

    /// The plan of the one query with this in its text that the calls since the last time made.
    pub async fn plan(&self, text: &str) -> Plan {
        let mut plans = self.queries().await;
        plans.retain(|plan| plan["Query Text"].as_str().unwrap().contains(text));
        assert_eq!(plans.len(), 1, "{text}: {plans:?}");
        Plan(plans.remove(0)["Plan"].take())
    }

    /// The plans, as one, of the queries with this in their texts that the calls since the last
    /// time made.
    async fn plans(&self, text: &str) -> Plan {
        let mut plans = self.queries().await;
        plans.retain(|plan| plan["Query Text"].as_str().unwrap().contains(text));
        Plan::of_all(&plans.iter_mut().map(|plan| plan["Plan"].take()).collect::<Vec<_>>())
    }

    /// The plans of the queries with these texts, one each, that the calls since the last time
    /// made.
    async fn plans_of<const N: usize>(&self, texts: [&str; N]) -> [Plan; N] {
        let plans = self.queries().await;
        texts.map(|text| {
            let with_text = |plan: &&Value| plan["Query Text"].as_str().unwrap().contains(text);
            let found: Vec<_> = plans.iter().filter(with_text).collect();
            assert_eq!(found.len(), 1, "{text}: {plans:?}");
            Plan(found[0]["Plan"].clone())
        })
    }

    /// All queries that the calls since the last time made: what else is sent asks for nothing of
    /// any table.
    async fn queries(&self) -> Vec<Value> {
        self.settle().await;
        let mut plans = self.tap.take();
        // Neither that of `settle`, nor the gate's, nor that which looks where a limited reach
        // begins.
        let others = [
            "\"account_types\".\"account_type_id\" = $2",
            "FROM \"tenants\"",
            "\"person_id\", \"organization_members\".\"organization_id\" FROM",
        ];
        let is_of_a_call = |text: &str| {
            text.contains(" FROM ") && !others.iter().any(|other| text.contains(other))
        };
        plans.retain(|plan| is_of_a_call(plan["Query Text"].as_str().unwrap()));
        plans
    }

    async fn accounts(&self, request: &ListAccountsRequest) -> (usize, String, Plan) {
        let response =
            self.tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
        let mut plans = self.queries().await;
        plans.retain(|plan| plan["Query Text"].as_str().unwrap().contains("ORDER BY \"accounts\""));
        let plan =
            Plan::of_all(&plans.iter_mut().map(|plan| plan["Plan"].take()).collect::<Vec<_>>());
        (response.accounts.len(), response.next_page_token, plan)
    }

    /// The token of a page far behind, read with large pages.
    async fn deep(&self, request: &ListAccountsRequest) -> String {
        let mut request = ListAccountsRequest { page_size: 1000, ..request.clone() };
        loop {
            let response =
                self.tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
            if response.next_page_token.is_empty() {
                self.settle().await;
                self.tap.take();
                return request.page_token;
            }
            request.page_token = response.next_page_token;
        }
    }
}

/// A list request in the tenant that [`TREE`] fills.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are a few of them, in a test")]
enum List {
    Accounts(ListAccountsRequest),
    People(ListPeopleRequest),
    Members(ListOrganizationMembersRequest),
    Users(ListAccountUsersRequest),
    Recipients(ListBillingRecipientsRequest),
    Person(ListPersonAccountsRequest),
}

impl List {
    /// Reads a page: how many rows it has, and the token of the next.
    async fn page(&self, tenant: &Tenant, page_size: i32, page_token: String) -> (usize, String) {
        match self.clone() {
            Self::Accounts(request) => {
                let request = ListAccountsRequest { page_size, page_token, ..request };
                let response = tenant.accounts().list_accounts(request).await.unwrap().into_inner();
                (response.accounts.len(), response.next_page_token)
            }
            Self::People(request) => {
                let request = ListPeopleRequest { page_size, page_token, ..request };
                let response = tenant.people().list_people(request).await.unwrap().into_inner();
                (response.people.len(), response.next_page_token)
            }
            Self::Members(request) => {
                let request = ListOrganizationMembersRequest { page_size, page_token, ..request };
                let response = tenant
                    .organizations()
                    .list_organization_members(request)
                    .await
                    .unwrap()
                    .into_inner();
                (response.people.len(), response.next_page_token)
            }
            Self::Users(request) => {
                let request = ListAccountUsersRequest { page_size, page_token, ..request };
                let response =
                    tenant.memberships().list_account_users(request).await.unwrap().into_inner();
                (response.account_users.len(), response.next_page_token)
            }
            Self::Recipients(request) => {
                let request = ListBillingRecipientsRequest { page_size, page_token, ..request };
                let response = tenant
                    .memberships()
                    .list_billing_recipients(request)
                    .await
                    .unwrap()
                    .into_inner();
                (response.recipients.len(), response.next_page_token)
            }
            Self::Person(request) => {
                let request = ListPersonAccountsRequest { page_size, page_token, ..request };
                let response =
                    tenant.memberships().list_person_accounts(request).await.unwrap().into_inner();
                (response.accounts.len(), response.next_page_token)
            }
        }
    }

    /// What the text of its query has.
    const fn text(&self) -> &'static str {
        match self {
            Self::Accounts(_) | Self::Person(_) => "ORDER BY \"accounts\"",
            Self::People(_) | Self::Members(_) | Self::Users(_) => {
                "SELECT \"people\".\"person_id\""
            }
            Self::Recipients(_) => "ORDER BY \"account_users\"",
        }
    }

    /// Reads a page of 50 as its query is planned.
    async fn plan(&self, on: &Measured, page_token: &str) -> (usize, Plan) {
        let (rows, _) = self.page(&on.tenant, 50, page_token.to_owned()).await;
        (rows, on.plans(self.text()).await)
    }

    /// The tokens of a page in the middle of the list and of the last one, and how many rows the
    /// list has.
    async fn depths(&self, on: &Measured) -> (String, String, usize) {
        let (mut tokens, mut total) = (vec![String::new()], 0);
        loop {
            let (rows, next) = self.page(&on.tenant, 1000, tokens.last().unwrap().clone()).await;
            total += rows;
            if next.is_empty() {
                break;
            }
            tokens.push(next);
        }
        let (middle, mut last) = (tokens[tokens.len() / 2].clone(), tokens.pop().unwrap());
        loop {
            let (_, next) = self.page(&on.tenant, 50, last.clone()).await;
            if next.is_empty() {
                break;
            }
            last = next;
        }
        on.settle().await;
        on.tap.take();
        (middle, last, total)
    }
}

/// A plan as `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)` has it.
pub struct Plan(pub Value);

impl Plan {
    /// Several plans as one, which has them below it.
    fn of_all(plans: &[Value]) -> Self {
        let sum = |field: &str| plans.iter().map(|plan| plan[field].as_i64().unwrap()).sum::<i64>();
        assert!(!plans.is_empty());
        Self(serde_json::json!({
            "Node Type": "All",
            "Shared Hit Blocks": sum("Shared Hit Blocks"),
            "Shared Read Blocks": sum("Shared Read Blocks"),
            "Plans": plans,
        }))
    }

    /// Pages of tables and indexes looked at.
    pub fn pages(&self) -> i64 {
        ["Shared Hit Blocks", "Shared Read Blocks"]
            .iter()
            .map(|field| self.0[field].as_i64().unwrap())
            .sum()
    }

    fn nodes(&self) -> Vec<&Value> {
        fn add<'p>(node: &'p Value, nodes: &mut Vec<&'p Value>) {
            nodes.push(node);
            node["Plans"].as_array().into_iter().flatten().for_each(|node| add(node, nodes));
        }
        let mut nodes = Vec::new();
        add(&self.0, &mut nodes);
        nodes
    }

    /// Nothing is read from end to end, no table of all tenants is looked through, and the index is
    /// used as it should be.
    #[track_caller]
    pub fn check(&self, what: &str, uses: &Uses, pages: i64) {
        let plan = || format!("{what}: {} pages\n{}", self.pages(), self.lines());
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_owned();
        for node in self.nodes() {
            assert_ne!(node["Node Type"], "Seq Scan", "{}", plan());
            let scans = !text(node, "Index Name").is_empty();
            assert!(!scans || text(node, "Index Cond").contains("tenant_id = "), "{}", plan());
        }
        let is_used = |node: &&Value| {
            text(node, "Index Name").starts_with(uses.0)
                && text(node, "Index Cond").contains(uses.1)
        };
        assert!(
            self.nodes().iter().any(is_used),
            "does not use {} by {:?}\n{}",
            uses.0,
            uses.1,
            plan()
        );
        assert!(self.pages() <= pages, "more than {pages} pages\n{}", plan());
    }

    /// One line a node: what it does by which index with which condition, and how many rows came
    /// out.
    fn lines(&self) -> String {
        use std::fmt::Write as _;
        fn add(node: &Value, depth: usize, text: &mut String) {
            write!(text, "{:1$}", "", 2 * depth).unwrap();
            for field in ["Node Type", "Relation Name", "Index Name", "Index Cond", "Filter"] {
                if let Some(value) = node[field].as_str() {
                    write!(text, "{value} ").unwrap();
                }
            }
            let hit = &node["Shared Hit Blocks"];
            writeln!(text, "rows {} x {}, pages {hit}", node["Actual Rows"], node["Actual Loops"])
                .unwrap();
            node["Plans"]
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|node| add(node, depth + 1, text));
        }
        let mut text = String::new();
        add(&self.0, 0, &mut text);
        text
    }
}

/// The plan uses an index whose name begins so, and narrows it by this and not by the tenant alone.
pub struct Uses(pub &'static str, pub &'static str);

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of lists")]
async fn every_list_search_and_get_uses_its_index() {
    let Some(on) = Measured::start("the embedded server has no auto_explain").await else { return };
    let all = ListAccountsRequest::default;
    let query = |query: &str| ListAccountsRequest { query: query.into(), ..all() };
    let by_word = "(word >= ";
    // The request, the index it must use with which condition, and how many pages it may look at.
    let cases = [
        // The first page of a list without filters is the beginning of its index.
        (all(), Uses("accounts_sort_key_idx", "tenant_id"), FEW),
        (
            ListAccountsRequest { order_by: 2, ..all() },
            Uses("accounts_sort_key_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 3, ..all() },
            Uses("accounts_create_time_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 4, ..all() },
            Uses("accounts_create_time_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { statuses: vec![3], ..all() },
            Uses("accounts_status_idx", "status = "),
            FEW,
        ),
        (
            ListAccountsRequest { statuses: vec![3], order_by: 2, ..all() },
            Uses("accounts_status_idx", "status = "),
            FEW,
        ),
        // Several statuses have no index with their order: few are read and sorted, many are picked
        // out of the order by name.
        (
            ListAccountsRequest { statuses: vec![2, 3], ..all() },
            Uses("accounts_", "tenant_id"),
            1500,
        ),
        (
            ListAccountsRequest { statuses: vec![1, 2], ..all() },
            Uses("accounts_sort_key_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { organization_id: "org-7".into(), ..all() },
            Uses("accounts_organization_idx", "organization_id = "),
            FEW,
        ),
        (
            ListAccountsRequest { organization_id: "org-7".into(), order_by: 4, ..all() },
            Uses("accounts_organization_idx", "organization_id = "),
            FEW,
        ),
        (
            ListAccountsRequest { organization_id: "org-0".into(), ..all() },
            Uses("accounts_organization_idx", "organization_id = "),
            FEW,
        ),
        (
            ListAccountsRequest { account_type_id: "type-7".into(), ..all() },
            Uses("accounts_account_type_idx", "account_type_id = "),
            FEW,
        ),
        (
            ListAccountsRequest {
                account_type_id: "type-7".into(),
                statuses: vec![1],
                order_by: 3,
                ..all()
            },
            Uses("accounts_account_type_idx", "account_type_id = "),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 5, ..all() },
            Uses("accounts_update_time_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 6, ..all() },
            Uses("accounts_update_time_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 7, ..all() },
            Uses("accounts_status_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { order_by: 8, ..all() },
            Uses("accounts_status_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { is_primary: Some(true), ..all() },
            Uses("accounts_is_primary_idx", "is_primary = true"),
            FEW,
        ),
        (
            ListAccountsRequest { is_primary: Some(false), ..all() },
            Uses("accounts_", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { without_account_type: true, ..all() },
            Uses("accounts_without_type_idx", "tenant_id"),
            FEW,
        ),
        (
            ListAccountsRequest { create_start_time: time(29_900), order_by: 3, ..all() },
            Uses("accounts_create_time_idx", "create_time >= "),
            FEW,
        ),
        (
            ListAccountsRequest { update_end_time: time(31 * 86_400 + 100), ..all() },
            Uses("accounts_update_time_idx", "update_time < "),
            2 * FEW,
        ),
        (
            ListAccountsRequest { update_end_time: time(31 * 86_400 + 100), order_by: 6, ..all() },
            Uses("accounts_update_time_idx", "update_time < "),
            FEW,
        ),
        (with_entries(&[("erp", "12345")]), Uses("account_words_word_idx", "(word = "), FEW),
        (with_entries(&[("region", "eu")]), Uses("account_words_", "word = "), 6 * FEW),
        (
            with_entries(&[("erp", "12346"), ("region", "eu")]),
            Uses("account_words_", "word = "),
            FEW,
        ),
        (
            ListAccountsRequest { contact_id: "nobody".into(), ..all() },
            Uses("accounts_", "contact_id = "),
            FEW,
        ),
        // A word of one account, of none, of a few hundred, and of all.
        (query("acct-0012345"), Uses("account_words_word_idx", by_word), FEW),
        (query("nothing"), Uses("account_words_word_idx", by_word), FEW),
        (query("alphalo"), Uses("account_words_word_idx", by_word), 1500),
        (query("acct"), Uses("account_words_pkey", by_word), 4 * FEW),
        // Words that many accounts have, all of them at the end of the list or at its beginning:
        // 1,000 accounts are tested with up to four pages each, then some 2,000 are collected with
        // four. To test all would take 100,000 pages.
        (query("late"), Uses("account_words_word_idx", by_word), 12_000),
        (query("zet late"), Uses("account_words_word_idx", by_word), 16_000),
        (
            ListAccountsRequest { order_by: 2, ..query("late") },
            Uses("account_words_pkey", by_word),
            4 * FEW,
        ),
        // Two words: the rare one decides.
        (query("acct acct-0012345"), Uses("account_words_word_idx", by_word), FEW),
        (query("acct nothing"), Uses("account_words_word_idx", by_word), FEW),
        // 294 accounts have the second word, and each costs up to ten pages in the worst order of
        // the joins; all accounts with the first would be above 10,000.
        (query("alphalo betami"), Uses("account_words_word_idx", by_word), 300 * 10),
        // And with filters.
        (
            ListAccountsRequest { organization_id: "org-7".into(), ..query("alpha") },
            Uses("accounts_organization_idx", "organization_id = "),
            3 * FEW,
        ),
        (
            ListAccountsRequest { account_type_id: "type-7".into(), ..query("acct") },
            Uses("accounts_account_type_idx", "account_type_id = "),
            FEW,
        ),
    ];
    for (request, uses, pages) in cases {
        for _ in 0..CUSTOM_PLANS + 2 {
            let (_, _, plan) = on.accounts(&request).await;
            plan.check(&format!("{request:?}"), &uses, pages);
        }
    }
    let mut accounts = on.tenant.accounts();
    for _ in 0..CUSTOM_PLANS + 2 {
        accounts
            .get_account(GetAccountRequest { account_id: "acct-0000042".into() })
            .await
            .unwrap();
        let plan = on.plan("\"accounts\".\"account_id\" = $2").await;
        plan.check("GetAccount", &Uses("accounts_pkey", "account_id = "), 4);
        let account_ids = (1..=100).map(|n| format!("acct-{:07}", n * 7)).collect();
        accounts.batch_get_accounts(BatchGetAccountsRequest { account_ids }).await.unwrap();
        on.plan("\"accounts\".\"account_id\" = ANY").await.check(
            "BatchGetAccounts",
            &Uses("accounts_pkey", "account_id = "),
            500,
        );
    }
    let all = ListOrganizationsRequest::default;
    for (request, uses) in [
        (all(), Uses("organizations_sort_key_idx", "tenant_id")),
        (
            ListOrganizationsRequest { order_by: 4, ..all() },
            Uses("organizations_create_time_idx", "tenant_id"),
        ),
        (
            ListOrganizationsRequest { roots_only: true, ..all() },
            Uses("organizations_top_idx", "tenant_id"),
        ),
        (
            ListOrganizationsRequest { metadata: entries(&[("erp", "1")]), ..all() },
            Uses("organization_words_word_idx", "word = "),
        ),
        (
            ListOrganizationsRequest { parent_id: "org-7".into(), ..all() },
            Uses("organizations_parent_idx", "parent_id = "),
        ),
        (
            ListOrganizationsRequest { query: "org-77".into(), ..all() },
            Uses("organization_words_word_idx", by_word),
        ),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            on.tenant.organizations().list_organizations(request.clone()).await.unwrap();
            on.plan("ORDER BY \"organizations\"").await.check(&format!("{request:?}"), &uses, FEW);
        }
    }
    for order_by in 1..=4 {
        let request = ListAccountTypesRequest { order_by, ..Default::default() };
        on.tenant.account_types().list_account_types(request).await.unwrap();
        let index =
            if order_by < 3 { "account_types_name_key" } else { "account_types_create_time_idx" };
        on.plan("ORDER BY \"account_types\"").await.check(
            "ListAccountTypes",
            &Uses(index, "tenant_id"),
            FEW,
        );
    }
}

/// So many seconds after the first account was created.
#[expect(clippy::unnecessary_wraps, reason = "as the field of the message has it")]
fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_767_225_600 + seconds, nanos: 0 })
}

fn entries(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn with_entries(metadata: &[(&str, &str)]) -> ListAccountsRequest {
    ListAccountsRequest { metadata: entries(metadata), ..Default::default() }
}

/// The count of a list stops at 1000 rows. So on 30,000 accounts it costs as much as a large page,
/// and a request without a count costs nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_looks_at_no_more_rows_than_a_large_page() {
    let Some(on) = Measured::start("the embedded server has no auto_explain").await else { return };
    let all = ListAccountsRequest::default;
    for (request, pages) in [
        (all(), 60),
        (ListAccountsRequest { order_by: 6, ..all() }, 60),
        (ListAccountsRequest { statuses: vec![1], ..all() }, 60),
        (ListAccountsRequest { organization_id: "org-0".into(), ..all() }, 60),
        (ListAccountsRequest { account_type_id: "type-0".into(), ..all() }, 60),
        (ListAccountsRequest { without_account_type: true, ..all() }, 60),
        (ListAccountsRequest { is_primary: Some(false), ..all() }, 1200),
        (ListAccountsRequest { query: "acct".into(), ..all() }, 6000),
        (with_entries(&[("region", "eu")]), 6000),
    ] {
        let mut seen = Vec::new();
        for _ in 0..CUSTOM_PLANS + 2 {
            let request = ListAccountsRequest { include_total_size: true, ..request.clone() };
            let response =
                on.tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
            assert_eq!(
                (response.total_size, response.total_size_capped),
                (1000, true),
                "{request:?}"
            );
            let plan = on.plan("SELECT count(*) FROM (").await;
            plan.check(&format!("the count of {request:?}"), &ANY, pages);
            let most = plan
                .nodes()
                .iter()
                .map(|node| node["Actual Rows"].as_f64().unwrap())
                .fold(0.0, f64::max);
            assert!(most <= 2100.0, "{request:?} looks at {most} rows\n{}", plan.lines());
            seen.push(plan.pages());
        }
        seen.dedup();
        eprintln!("the count of {request:?}: {seen:?} pages");
        let response =
            on.tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
        assert_eq!((response.total_size, response.total_size_capped), (0, false), "{request:?}");
        assert!(
            on.queries()
                .await
                .iter()
                .all(|plan| !plan["Query Text"].as_str().unwrap().contains("count(*)"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_page_costs_what_the_first_does() {
    let Some(on) = Measured::start("the embedded server has no auto_explain").await else { return };
    let all = ListAccountsRequest::default;
    for request in [
        all(),
        ListAccountsRequest { order_by: 4, ..all() },
        ListAccountsRequest { order_by: 6, ..all() },
        ListAccountsRequest { order_by: 8, ..all() },
        ListAccountsRequest { order_by: 6, update_start_time: time(31 * 86_400 + 100), ..all() },
        ListAccountsRequest { statuses: vec![1], order_by: 2, ..all() },
        ListAccountsRequest { query: "acct".into(), ..all() },
    ] {
        let (_, _, first) = on.accounts(&request).await;
        let page_token = on.deep(&request).await;
        let (rows, _, deep) =
            on.accounts(&ListAccountsRequest { page_token, ..request.clone() }).await;
        assert_eq!(rows, 50);
        let (first_pages, deep_pages) = (first.pages(), deep.pages());
        assert!(
            2 * deep_pages <= 3 * first_pages,
            "{request:?}: {first_pages} and {deep_pages} pages\n{}{}",
            first.lines(),
            deep.lines()
        );
    }
}

/// A search for common words first walks through a part of the list, then collects the accounts
/// that have them. Page by page, in each order, both find what a plain query finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_common_words_finds_each_account_once_and_in_order() {
    let fill = format!("{FILL}{COMMON}");
    let why = "the embedded server is too slow for so many rows";
    let Some(filled) = Filled::new(&fill, why).await else { return };
    let (on, sql) = (Measured::on(&filled).await, support::sql(&filled.url).await);
    let orders = [
        "sort_key, account_id",
        "sort_key DESC, account_id DESC",
        "create_time, account_id",
        "create_time DESC, account_id DESC",
        "update_time, account_id",
        "update_time DESC, account_id DESC",
        "status, sort_key, account_id",
        "status DESC, sort_key DESC, account_id DESC",
    ];
    // Words of accounts, of many contacts, of either; two common words that few accounts have.
    for query in ["late", "meyer", "zet", "late meyer", "alpha beta"] {
        for (order_by, order) in (1..).zip(orders) {
            let terms = query.split(' ').map(|term| {
                format!(
                    "AND (EXISTS (SELECT FROM account_words AS w WHERE w.tenant_id = a.tenant_id
                        AND w.account_id = a.account_id AND w.word LIKE '{term}%')
                     OR EXISTS (SELECT FROM person_words AS w WHERE w.tenant_id = a.tenant_id
                        AND w.person_id = a.primary_contact_id AND w.word LIKE '{term}%'))"
                )
            });
            let terms: String = terms.collect();
            let tenant = &on.tenant.caller.tenant;
            let wanted = format!(
                "SELECT account_id FROM accounts AS a
                 WHERE tenant_id = '{tenant}' {terms} ORDER BY {order}"
            );
            let wanted: Vec<String> =
                sql.query(&wanted, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
            let mut request = ListAccountsRequest {
                query: query.into(),
                order_by,
                page_size: 700,
                ..Default::default()
            };
            let mut found = Vec::new();
            loop {
                let response =
                    on.tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
                found.extend(response.accounts.into_iter().map(|account| account.account_id));
                if response.next_page_token.is_empty() {
                    break;
                }
                request.page_token = response.next_page_token;
            }
            assert!(wanted.len() > 100, "{query}: {}", wanted.len());
            assert!(found == wanted, "{query} by {order}: {} of {}", found.len(), wanted.len());
        }
    }
}

/// 3,000 contacts of accounts at the end of the alphabet and of others, all with the same word.
const COMMON: &str = "
INSERT INTO people (tenant_id, person_id, display_name, sort_key, kind)
    SELECT tenant, 'pers-' || n, 'Meyer ' || n, 'meyer ' || n, 'CUSTOMER' FROM filled
    WHERE n % 2 = 0 AND name LIKE 'Zeta%' OR n % 50 = 0;
INSERT INTO person_words (tenant_id, person_id, word)
    SELECT tenant_id, person_id, unnest(ARRAY['meyer', person_id]) FROM people;
UPDATE accounts SET primary_contact_id = 'pers-' || person.n FROM filled AS person
    WHERE (person.n % 2 = 0 AND person.name LIKE 'Zeta%' OR person.n % 50 = 0)
        AND accounts.tenant_id = person.tenant AND accounts.account_id = person.id;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant_id, account_id, '@' || primary_contact_id FROM accounts
    WHERE primary_contact_id IS NOT NULL;
";

/// How many pages of tables and indexes a page of the list may take, wherever it lies, and whether
/// each must cost at most half as much again as the first: true of lists whose rows lie evenly in
/// the order that is asked for.
struct Bound(i64, bool);

fn in_tree(organization_id: &str) -> ListAccountsRequest {
    ListAccountsRequest {
        organization_id: organization_id.into(),
        include_descendants: true,
        ..Default::default()
    }
}

fn managed_by(id: &str) -> ListAccountsRequest {
    ListAccountsRequest { account_manager_id: id.into(), ..Default::default() }
}

fn people(query: &str) -> ListPeopleRequest {
    ListPeopleRequest { query: query.into(), ..Default::default() }
}

fn people_of(organization_id: &str, include_descendants: bool) -> ListPeopleRequest {
    ListPeopleRequest {
        organization_id: organization_id.into(),
        include_descendants,
        ..Default::default()
    }
}

fn members(organization_id: &str, order_by: i32) -> ListOrganizationMembersRequest {
    ListOrganizationMembersRequest {
        organization_id: organization_id.into(),
        order_by,
        ..Default::default()
    }
}

impl Measured {
    /// The first page, one in the middle and the last, each as often as it takes until PostgreSQL
    /// might plan for no values.
    async fn check(&self, list: List, uses: Uses, Bound(most, even): Bound) {
        let (middle, deepest, total) = list.depths(self).await;
        let mut first = None;
        let mut seen = Vec::new();
        for (what, token) in [("first", ""), ("middle", &middle), ("deepest", &deepest)] {
            for _ in 0..CUSTOM_PLANS + 2 {
                let (rows, plan) = list.plan(self, token).await;
                assert!(rows > 0, "{list:?}, {what}");
                let what = format!("{list:?}, {total} rows, the {what} page");
                plan.check(&what, if token.is_empty() { &uses } else { &ANY }, most);
                let pages = plan.pages();
                seen.push(pages);
                let first = *first.get_or_insert(pages);
                assert!(
                    !even || 2 * pages <= 3 * first,
                    "{what}: {pages} pages, the first {first}\n{}",
                    plan.lines()
                );
            }
        }
        seen.dedup();
        eprintln!("{list:?}: {total} rows, {seen:?} pages");
    }
}

/// Any index: near its end a list may be read another way.
const ANY: Uses = Uses("", "tenant_id");

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_tree_cost_a_page_wherever_it_lies() {
    let Some(on) = Measured::start_with(TREE, "the embedded server has no auto_explain").await
    else {
        return;
    };
    let (walk, by_organization) =
        (Uses("accounts_sort_key_idx", "tenant_id"), "organization_id = ");
    // The whole tree, and one eighth of it: the list is read in its order, and what lies outside is
    // skipped.
    on.check(List::Accounts(in_tree("unit-1")), walk, Bound(400, true)).await;
    let newest = ListAccountsRequest { order_by: 4, ..in_tree("unit-1") };
    on.check(
        List::Accounts(newest),
        Uses("accounts_create_time_idx", "tenant_id"),
        Bound(450, true),
    )
    .await;
    on.check(List::Accounts(in_tree("unit-2")), ANY, Bound(1500, true)).await;
    // 73 organizations of 2,500: in between, either way is right.
    on.check(List::Accounts(in_tree("unit-20")), ANY, Bound(8000, false)).await;
    // Few: the accounts of each are fetched and sorted.
    on.check(
        List::Accounts(in_tree("unit-200")),
        Uses("accounts_organization_idx", by_organization),
        Bound(150, true),
    )
    .await;
    on.check(
        List::Accounts(in_tree("unit-1999")),
        Uses("accounts_organization_idx", by_organization),
        Bound(FEW, true),
    )
    .await;
    let query = ListAccountsRequest { query: "alpha".into(), ..in_tree("unit-1") };
    // A search for a common word reads a part of the list twice: to see where it ends, and to test.
    on.check(List::Accounts(query), ANY, Bound(4000, false)).await;
    // A rare word in a middling tree: what the words find is looked up in the tree, not each of one
    // with each of the other.
    let query = ListAccountsRequest { query: "alphalo".into(), ..in_tree("unit-20") };
    on.check(List::Accounts(query), ANY, Bound(2500, false)).await;

    let by_manager = || Uses("accounts_account_manager_idx", "account_manager_id = ");
    on.check(List::Accounts(managed_by("pers-500")), by_manager(), Bound(FEW, true)).await;
    on.check(List::Accounts(managed_by("pers-1500")), by_manager(), Bound(FEW, true)).await;
    let both = ListAccountsRequest { account_manager_id: "pers-500".into(), ..in_tree("unit-2") };
    on.check(List::Accounts(both), by_manager(), Bound(1000, true)).await;

    let (by_name, by_word) = (
        || Uses("people_sort_key_key", "tenant_id"),
        || Uses("person_words_word_idx", "(word >= "),
    );
    on.check(List::People(people("")), by_name(), Bound(FEW, true)).await;
    on.check(List::People(people("pers-4242")), by_word(), Bound(FEW, true)).await;
    on.check(List::People(people("alphalo")), by_word(), Bound(3000, true)).await;
    on.check(List::People(people("acme")), by_name(), Bound(3 * FEW, true)).await;
    on.check(List::People(people("acme pers-4242")), by_word(), Bound(2 * FEW, true)).await;
    let staff = ListPeopleRequest { kind: 2, ..people("") };
    on.check(List::People(staff), Uses("people_kind_idx", "kind = "), Bound(FEW, true)).await;
    let by_member = || Uses("organization_members_sort_key_idx", by_organization);
    on.check(List::People(people_of("unit-7", false)), by_member(), Bound(FEW, true)).await;
    let found = ListPeopleRequest { query: "alphalo".into(), ..people_of("crowd", false) };
    on.check(List::People(found), by_word(), Bound(3500, false)).await;
    on.check(List::People(people_of("unit-1", true)), by_name(), Bound(1000, true)).await;
    on.check(List::People(people_of("unit-2", true)), ANY, Bound(3000, true)).await;
    on.check(List::People(people_of("unit-20", true)), by_member(), Bound(1000, true)).await;
    on.check(List::People(people_of("unit-200", true)), by_member(), Bound(500, true)).await;
}

/// One in five accounts has a person as its primary contact.
const CONTACTS: &str = "
SET session_replication_role = replica;
UPDATE accounts SET primary_contact_id = 'pers-' || substr(account_id, 6) WHERE substr(account_id, 6)::int % 5 = 0;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant_id, account_id, '@' || primary_contact_id FROM accounts WHERE primary_contact_id IS NOT NULL;
SET session_replication_role = DEFAULT;
";

/// A search finds accounts by their own words and by those of the person who is their primary
/// contact.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_of_accounts_by_their_contacts_looks_through_neither_accounts_nor_people() {
    let fill = format!("{TREE}{CONTACTS}");
    let Some(on) = Measured::start_with(&fill, "the embedded server has no auto_explain").await
    else {
        return;
    };
    // The words, how many rows the first page has, and how many pages its queries may look at:
    // which contacts have the words, the accounts, and the contacts to be shown.
    for (query, rows, most) in [
        // One contact; none; a few hundred contacts and accounts; no contact and all accounts;
        // every contact; a rare one of those.
        ("pers-4245", 1, FEW),
        ("nobody", 0, FEW),
        ("alphalo", 50, 3500),
        ("acct", 50, 5 * FEW),
        ("acme.example", 50, 4000),
        ("acme.example pers-4245", 1, 2000),
    ] {
        let mut seen = Vec::new();
        for _ in 0..CUSTOM_PLANS + 2 {
            let request = ListAccountsRequest { query: query.into(), ..Default::default() };
            let response = on.tenant.accounts().list_accounts(request).await.unwrap().into_inner();
            assert_eq!(response.accounts.len(), rows, "{query}");
            let plans: Vec<_> =
                on.queries().await.into_iter().map(|mut plan| Plan(plan["Plan"].take())).collect();
            for plan in &plans {
                plan.check(query, &ANY, most);
            }
            seen.push(plans.iter().map(Plan::pages).collect::<Vec<_>>());
        }
        seen.dedup();
        eprintln!("{query:?}: {seen:?} pages");
        assert!(seen.iter().all(|pages| pages.iter().sum::<i64>() <= most), "{query:?}: {seen:?}");
    }
}

/// An organization of 18,000 people costs its page, not its people.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_crowd_cost_a_page_wherever_it_lies() {
    let Some(on) = Measured::start_with(TREE, "the embedded server has no auto_explain").await
    else {
        return;
    };
    let by_organization = "organization_id = ";
    for order_by in 1..=4 {
        let index = if order_by < 3 {
            "organization_members_sort_key_idx"
        } else {
            "organization_members_create_time_idx"
        };
        on.check(
            List::Members(members("crowd", order_by)),
            Uses(index, by_organization),
            Bound(3 * FEW, true),
        )
        .await;
    }
    let uses = || Uses("organization_members_sort_key_idx", by_organization);
    let with_descendants =
        ListOrganizationMembersRequest { include_descendants: true, ..members("crowd", 0) };
    on.check(List::Members(with_descendants), uses(), Bound(3 * FEW, true)).await;
    on.check(List::Members(members("unit-7", 0)), uses(), Bound(FEW, true)).await;
}

/// Where some organizations are off, lists are read in their order all the same, and what is off is
/// skipped.
#[tokio::test(flavor = "multi_thread")]
async fn lists_without_what_is_off_keep_their_index() {
    let Some(on) = Measured::start_with(TREE, "the embedded server has no auto_explain").await
    else {
        return;
    };
    // A subtree of 9, and a few by themselves.
    for organization_id in ["unit-200", "unit-1999", "unit-2001", "unit-2400"] {
        on.tenant.set_module("customer_accounts", organization_id, Off).await.unwrap();
    }
    on.settle().await;
    on.tap.take();
    let all = ListAccountsRequest::default;
    let by_word = Uses("account_words_word_idx", "(word >= ");
    for (request, uses, pages) in [
        (all(), Uses("accounts_sort_key_idx", "tenant_id"), 2 * FEW),
        (
            ListAccountsRequest { order_by: 4, ..all() },
            Uses("accounts_create_time_idx", "tenant_id"),
            2 * FEW,
        ),
        (
            ListAccountsRequest { organization_id: "unit-7".into(), ..all() },
            Uses("accounts_organization_idx", "organization_id = "),
            FEW,
        ),
        (ListAccountsRequest { query: "acct-4242".into(), ..all() }, by_word, 3 * FEW),
        (in_tree("unit-1"), Uses("accounts_sort_key_idx", "tenant_id"), 450),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            on.tenant.accounts().list_accounts(request.clone()).await.unwrap();
            on.plan("!= ALL(").await.check(&format!("{request:?}"), &uses, pages);
        }
    }
    for order_by in [1, 4] {
        let request = ListOrganizationsRequest { order_by, ..Default::default() };
        let index = if order_by == 1 {
            "organizations_sort_key_idx"
        } else {
            "organizations_create_time_idx"
        };
        on.tenant.organizations().list_organizations(request).await.unwrap();
        on.plan("!= ALL(").await.check("ListOrganizations", &Uses(index, "tenant_id"), 2 * FEW);
    }
}

/// Statements that do not need each other's answers go together, and COMMIT with the last of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_few_flights() {
    let Some(on) = Measured::start("the embedded server is not reached by a tap").await else {
        return;
    };
    on.tenant.default_type("Trial").await;
    on.tenant.organization("top", "").await;
    let made = Cell::new(0);
    let next = |name: &str| {
        made.set(made.get() + 1);
        format!("{name}-{}", made.get())
    };
    let calls = async |which: usize| match which {
        // The first and the last flight; and the account with its link and words.
        0 | 1 => {
            let new = support::account(&next("new"), "org-7");
            let request_id = if which == 1 { next("request") } else { String::new() };
            let request =
                CreateAccountRequest { account: Some(new), request_id, ..Default::default() };
            on.tenant.accounts().create_account(request).await.unwrap();
        }
        // The account is found in the first flight, and changed with its words in the second.
        2 => {
            let account = Account {
                account_id: "acct-0000042".into(),
                display_name: next("Name"),
                ..Default::default()
            };
            let request = UpdateAccountRequest {
                account: Some(account),
                update_mask: support::calls::mask(&["display_name"]),
                ..Default::default()
            };
            on.tenant.accounts().update_account(request).await.unwrap();
        }
        3 => drop(on.tenant.organization(&next("unit"), "top").await),
        _ => drop(on.tenant.person(&next("person")).await),
    };
    // A call with a request id takes that id before it does anything else.
    for (which, expected) in [3, 4, 3, 4, 3].into_iter().enumerate() {
        let mut least = usize::MAX;
        for _ in 0..5 {
            on.settle().await;
            least = least.min(on.tap.flights(Box::pin(calls(which))).await);
        }
        assert_eq!(least, expected, "call {which}");
    }
}

/// The check whether the module is on is sent together with the first query of a call, so it costs
/// no round trip of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_takes_one_flight() {
    let Some(on) = Measured::start("the embedded server is not reached by a tap").await else {
        return;
    };
    on.tenant.person("ann").await;
    let id = || "acct-0000042".to_owned();
    let calls = async |which: usize| {
        let (mut accounts, mut organizations) = (on.tenant.accounts(), on.tenant.organizations());
        let unit = GetOrganizationRequest { organization_id: "org-7".into() };
        let check = CheckMembershipRequest { account_id: id(), person_id: "ann".into() };
        match which {
            0 => drop(accounts.get_account(GetAccountRequest { account_id: id() }).await.unwrap()),
            1 => drop(
                accounts
                    .batch_get_accounts(BatchGetAccountsRequest { account_ids: vec![id()] })
                    .await
                    .unwrap(),
            ),
            2 => drop(accounts.list_accounts(ListAccountsRequest::default()).await.unwrap()),
            3 => drop(organizations.get_organization(unit).await.unwrap()),
            4 => drop(
                organizations
                    .list_organizations(ListOrganizationsRequest::default())
                    .await
                    .unwrap(),
            ),
            5 => drop(on.tenant.memberships().check_membership(check).await.unwrap()),
            _ => drop(on.tenant.people().list_people(ListPeopleRequest::default()).await.unwrap()),
        }
    };
    let flights = async |which: usize| {
        // The first time, statements are prepared.
        calls(which).await;
        let mut least = usize::MAX;
        for _ in 0..3 {
            on.settle().await;
            // A machine that is busy elsewhere can make two flights of what was sent as one, never
            // one of two.
            least = least.min(on.tap.flights(calls(which)).await);
        }
        least
    };
    for which in 0..7 {
        assert_eq!(flights(which).await, 1, "call {which}");
    }
    // With a setting somewhere, one more to look at it; a list is made again without what is off.
    on.tenant.set_module("customer_accounts", "org-3", Off).await.unwrap();
    for (which, expected) in [2, 2, 3, 2, 3, 2, 1].into_iter().enumerate() {
        assert_eq!(flights(which).await, expected, "call {which} with a setting");
    }
}

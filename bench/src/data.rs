//! The rows that everything is measured on, made by SQL as the service would have made them.
//!
//! Ids are numbers, so that `pgbench` can choose them. The name of an account begins with its
//! tenant and ends with its number, so an answer shows whose row it is.

use crate::postgres::Postgres;

/// The rows of one tenant.
#[derive(Clone, Copy)]
pub struct Size {
    pub accounts: u64,
    pub people: u64,
    pub organizations: u64,
}

/// All rows: `main`, `t01` to `t64`, and `empty`, which has none.
#[derive(Clone, Copy)]
pub struct Data {
    pub main: Size,
    pub other: Size,
}

/// Tenants beside `main`.
pub const OTHERS: usize = 64;
/// The tenant without rows, after `main` and the others.
pub const EMPTY: usize = OTHERS + 1;
/// Organizations of one tree.
pub const TREE: u64 = 2000;
/// The account whose users are these many people.
pub const BIG: u64 = 3;
/// The account that is linked to a whole tree.
pub const LINKED: u64 = 4;
/// The account that has these many subscriptions, each with a discount of its own.
pub const SUBSCRIBED: u64 = 5;
pub const SUBSCRIPTIONS: u64 = 10_000;
/// Accounts from this one on, `WITH_USERS` of them, have 21 individual users each.
pub const USERS_FROM: u64 = 100;
pub const WITH_USERS: u64 = 100;
/// Individual users of each of them.
pub const INDIVIDUAL: u64 = 21;

/// The name of a tenant by its number.
pub fn tenant(number: usize) -> String {
    match number {
        0 => "main".into(),
        EMPTY => "empty".into(),
        _ => format!("t{number:02}"),
    }
}

/// The id of an account by its number.
pub fn account_id(n: u64) -> String {
    (1_000_000 + n).to_string()
}

/// The id of a person by their number.
pub fn person_id(n: u64) -> String {
    (50_000_000 + n).to_string()
}

/// The name of an account: its position in the alphabet, words for searches, and its number.
pub fn account_name(tenant: &str, n: u64) -> String {
    let position = n * 7919 % 1000;
    let letters: String = format!("{position:03}").bytes().map(|d| char::from(d + 49)).collect();
    let late = if position >= 750 { " late" } else { "" };
    let rare = if n % 1000 == 77 { " rare" } else { "" };
    format!("{tenant} {letters}{late}{rare} {n}")
}

impl Size {
    /// The organization of an account.
    pub fn organization(self, n: u64) -> u64 {
        match n {
            BIG => 0, // one without members
            LINKED => 1,
            _ => 1 + n * 31 % self.organizations,
        }
    }

    /// An individual user of an account. None of them is a member of the account's organization.
    pub fn user(self, n: u64, j: u64) -> u64 {
        (self.organization(n) + 3 * j) % self.people
    }

    /// Users of the account `BIG`.
    pub fn big(self) -> u64 {
        self.people / 10
    }
}

impl Data {
    /// The rows of the form that was asked for.
    pub fn new(smoke: bool, large: bool) -> Self {
        let size = |accounts, people, organizations| Size { accounts, people, organizations };
        if smoke {
            return Self { main: size(3000, 2000, 200), other: size(300, 200, 100) };
        }
        let main = size(if large { 1_000_000 } else { 200_000 }, 50_000, 10_000);
        Self { main, other: size(3000, 300, 100) }
    }

    /// The rows of a tenant.
    pub fn size(self, tenant: usize) -> Size {
        if tenant == 0 { self.main } else { self.other }
    }

    /// Inserts everything.
    pub async fn load(self, postgres: &Postgres) {
        let rows = |name: &str, s: Size| {
            format!("('{name}', {}, {}, {})", s.accounts, s.people, s.organizations)
        };
        let tenants: Vec<_> = (0..=OTHERS).map(|n| rows(&tenant(n), self.size(n))).collect();
        let sql = LOAD.replace("$tenants", &tenants.join(", "));
        let connection = postgres.sql("bench").await;
        for statement in sql.split(";\n") {
            connection.batch_execute(statement).await.unwrap();
        }
        connection.batch_execute("VACUUM ANALYZE").await.unwrap();
        connection.batch_execute("CHECKPOINT").await.unwrap();
    }
}

/// `folded` is the stamp of `search::stamp` for revision 1.
const LOAD: &str = "
SET session_replication_role = replica; -- foreign keys hold by construction
SET synchronous_commit = off;
SET work_mem = '256MB';
CREATE TEMP TABLE sizes (tenant text, accounts int, people int, orgs int);
INSERT INTO sizes VALUES $tenants;
INSERT INTO tenants (tenant_id) SELECT tenant FROM sizes;
INSERT INTO account_types (tenant_id, account_type_id, display_name, name_key, is_default)
    SELECT tenant, 'type-' || n, 'Type ' || n, 'type ' || n, n = 0 FROM sizes, generate_series(0, 19) AS n;
CREATE TEMP TABLE units AS SELECT tenant, n, 'org-' || n AS id, CASE WHEN n > 0 AND (n - 1) % 2000 > 0
        THEN (n - 1) / 2000 * 2000 + ((n - 1) % 2000 + 7) / 8 END AS parent
    FROM sizes, generate_series(0, orgs) AS n;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, parent_id, folded)
    SELECT tenant, id, 'Unit ' || n, 'unit ' || n, 'org-' || parent, 1002 FROM units;
INSERT INTO organization_words (tenant_id, organization_id, word)
    SELECT DISTINCT tenant, id, unnest(ARRAY[id, n::text, 'unit']) FROM units;
WITH RECURSIVE closure (tenant, n, above, distance) AS (
    SELECT tenant, n, n, 0 FROM units
    UNION ALL SELECT closure.tenant, closure.n, parent, distance + 1
        FROM closure JOIN units ON units.tenant = closure.tenant AND units.n = above WHERE parent IS NOT NULL)
INSERT INTO organization_ancestors (tenant_id, organization_id, ancestor_id, distance)
    SELECT tenant, 'org-' || n, 'org-' || above, distance FROM closure;
CREATE TEMP TABLE filled AS SELECT tenant, n, people, orgs, (50000000 + n)::text AS id,
        'person ' || lpad((n::bigint * 7919 % people)::text, 6, '0') AS key,
        '2026-01-01Z'::timestamptz + n * interval '1 second' AS at
    FROM sizes, generate_series(0, people - 1) AS n;
INSERT INTO people (tenant_id, person_id, display_name, sort_key, email, kind, create_time, folded)
    SELECT tenant, id, initcap(key), key, 'p' || n || '@acme.example',
        CASE WHEN n % 500 = 0 THEN 'STAFF' ELSE 'CUSTOMER' END, at, 1002 FROM filled;
INSERT INTO person_words (tenant_id, person_id, word)
    SELECT DISTINCT tenant, id, unnest(ARRAY[id, 'person', split_part(key, ' ', 2), 'p' || n || '@acme.example', ' @acme.example', 'acme.example', 'example'])
    FROM filled;
INSERT INTO organization_members (tenant_id, organization_id, person_id, sort_key, person_create_time)
    SELECT tenant, 'org-' || 1 + n % orgs, id, key, at FROM filled;
CREATE TEMP TABLE named AS SELECT tenant, n, (1000000 + n)::text AS id, orgs, people,
        translate(lpad((n::bigint * 7919 % 1000)::text, 3, '0'), '0123456789', 'abcdefghij') AS letters,
        CASE WHEN n::bigint * 7919 % 1000 >= 750 THEN ' late' ELSE '' END AS late,
        CASE WHEN n % 1000 = 77 THEN ' rare' ELSE '' END AS rare,
        CASE n WHEN 3 THEN 0 WHEN 4 THEN 1 ELSE 1 + n::bigint * 31 % orgs END AS org
    FROM sizes, generate_series(1, accounts) AS n;
INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, account_type_id, status,
        primary_contact, billing_address, billing_contact_id, create_time, update_time, folded)
    SELECT tenant, id, tenant || ' ' || letters || late || rare || ' ' || n, tenant || ' ' || letters || late || rare || ' ' || n,
        'org-' || org, 'type-' || n % 20,
        CASE WHEN n % 100 = 1 THEN 'INACTIVE' WHEN n % 50 = 2 THEN 'SUSPENDED' ELSE 'ACTIVE' END,
        jsonb_build_object('name', 'Purchasing', 'email', 'purchasing@acme.example'),
        jsonb_build_object('line1', n || ' Main Street', 'city', 'Springfield', 'postal_code', '12345', 'country', 'US'),
        CASE WHEN n BETWEEN 100 AND 199 THEN (50000000 + (org + 6) % people)::text END,
        '2026-01-01Z'::timestamptz + n * interval '1 second', '2026-02-01Z'::timestamptz + n * interval '1 second', 1002
    FROM named;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT DISTINCT tenant, id, unnest(ARRAY[id, tenant, letters, n::text, 'purchasing', 'purchasing@acme.example', ' @acme.example', 'acme.example', 'example']
        || CASE WHEN late = '' THEN '{}' ELSE ARRAY['late'] END || CASE WHEN rare = '' THEN '{}' ELSE ARRAY['rare'] END)
    FROM named;
INSERT INTO account_organizations (tenant_id, account_id, organization_id, own, include_descendants)
    SELECT tenant, id, 'org-' || org, true, n = 4 FROM named;
INSERT INTO account_users (tenant_id, account_id, person_id, individual, billing, sort_key, person_create_time)
    SELECT a.tenant, a.id, p.id, true, j < 2 AND a.n % 2 = 0 OR j < 2 AND a.n BETWEEN 100 AND 199, p.key, p.at
    FROM named AS a CROSS JOIN LATERAL generate_series(0, CASE WHEN a.n BETWEEN 100 AND 199 THEN 20 ELSE 0 END) AS j
    JOIN filled AS p ON p.tenant = a.tenant AND p.n = (a.org + 3 * j) % a.people WHERE a.n NOT IN (3, 4);
INSERT INTO account_users (tenant_id, account_id, person_id, individual, billing, sort_key, person_create_time)
    SELECT tenant, '1000003', id, true, n % 100 = 0, key, at FROM filled WHERE n % 10 = 0;
INSERT INTO subscriptions (tenant_id, subscription_id, account_id, incarnation, display_name, product_code,
        unit_amount, currency_code, quantity, interval_unit, interval_count, start_time, discount, paused,
        cancel_reason, metadata)
    SELECT 'main', 'subscription-' || n, account_id, incarnation, 'Plan', 'plan', n / 1000.0, 'EUR', 3, 'YEAR', 1 + n % 12,
        '2026-01-01Z', n, false, '', '{}'
    FROM accounts, generate_series(0, 9999) AS n WHERE tenant_id = 'main' AND account_id = '1000005';
SET session_replication_role = DEFAULT";

//! A watch over every statement that the services of this process send: one that names a table of
//! tenants without binding its `tenant_id` panics, and so fails the call that sends it.

use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};

/// The tables that have a `tenant_id`; `tests/it/tenancy.rs` holds the list against the schema.
pub const TABLES: [&str; 24] = [
    "account_organizations",
    "account_types",
    "account_users",
    "account_words",
    "accounts",
    "activities",
    "contract_words",
    "contracts",
    "delivery_setups",
    "module_activations",
    "opportunities",
    "opportunity_words",
    "orders",
    "organization_ancestors",
    "organization_members",
    "organization_words",
    "organizations",
    "people",
    "person_words",
    "portfolio_items",
    "portfolio_words",
    "portfolios",
    "requests",
    "subscriptions",
];

/// Statements that bind no tenant on purpose.
const EXEMPT: [&str; 5] = [
    // The owner of the tables walks the tenants.
    "SELECT organizations.tenant_id FROM organizations WHERE (organizations.tenant_id > ",
    "SELECT people.tenant_id FROM people WHERE (people.tenant_id > ",
    "SELECT account_types.tenant_id FROM account_types WHERE (account_types.tenant_id > ",
    // A test of isolation asks what row-level security shows by itself.
    "SELECT accounts.tenant_id, min",
    "SELECT accounts.account_id FROM accounts --",
];

/// Watches the connections that the process opens from now on.
pub fn watch() {
    set_default_instrumentation(|| Some(Box::new(Watch))).unwrap();
}

struct Watch;

impl Instrumentation for Watch {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let sql = query.to_string();
            if let Some(table) = unbound(&sql) {
                panic!("a statement does not bind the tenant of {table}: {sql}");
            }
        }
    }
}

/// The first name of a table of tenants that a statement has more often than conditions on the
/// `tenant_id` of that name. A condition compares it with a value, or with the `tenant_id` of
/// another table; every statement needs one with a value.
///
/// Only statements with quoted names of tables count, as Diesel writes them: tests send the others.
pub fn unbound(sql: &str) -> Option<String> {
    let is_quoted = |table: &&str| sql.contains(&format!("\"{table}\""));
    if !TABLES.iter().chain(&["tenants"]).any(is_quoted) {
        return None;
    }
    let sql = sql.replace('"', "");
    if EXEMPT.iter().any(|exempt| sql.starts_with(exempt)) {
        return None;
    }
    let sql = sql.split(" -- binds").next().unwrap_or_default().replace(['(', ')', ','], " ");
    let words: Vec<_> = sql.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let is_table = |name: &str| TABLES.contains(&name) || name == "tenants";
    let mut names = Vec::new();
    for (at, keyword) in words.iter().enumerate() {
        let table = word(at + 1);
        if !is_table(table) {
            continue;
        }
        match *keyword {
            // The columns of an insert have no table before their names.
            "INTO" if word(at + 2) == "tenant_id" => {}
            "INTO" => return Some(table.to_owned()),
            "FROM" | "JOIN" | "UPDATE" => {
                let has_alias = word(at + 2) == "AS";
                names.push(if has_alias { word(at + 3) } else { table });
            }
            _ => {}
        }
    }
    let is_bound = |name: &str, to: fn(&str) -> bool| {
        let column = format!("{name}.tenant_id");
        words.windows(3).filter(|w| w[0] == column && w[1] == "=" && to(w[2])).count()
    };
    let short = names.iter().find(|name| {
        let uses = names.iter().filter(|other| other == name).count();
        is_bound(name, |other| other.starts_with('$') || other.ends_with(".tenant_id")) < uses
    });
    let rooted =
        names.is_empty() || names.iter().any(|name| is_bound(name, |to| to.starts_with('$')) > 0);
    short.or_else(|| names.first().filter(|_| !rooted)).map(|name| (*name).to_owned())
}

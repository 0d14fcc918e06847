//! Renews what the service derives from names: words of the search, sort keys of lists, and unique
//! keys of account types. This is needed once for each change of the folding (`search::FOLDING`),
//! and again when no replica of the previous version runs any more, because those write what they
//! always did.
//!
//! Runs as the owner of the tables, beside services of this version and the previous one, in
//! batches, each in its own transaction. After an interruption the rows' stamps show what is left.
//! If nothing is left, it only reads.

use std::{collections::BTreeMap, time::Duration};

use diesel::{prelude::*, result::Error as DieselError, upsert::excluded};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::sleep;

use crate::{
    account_types::store::{AccountType, Fields},
    accounts::store::Account,
    caller::TenantId,
    contracts::store::Contract,
    db::{Manager, Owner, is_passing, migrate::MigrateError},
    opportunities::store::Opportunity,
    organizations::store::Organization,
    people::store::Person,
    portfolios::store::Portfolio,
    schema::{account_types, organizations, people, renewals},
    search::{self, Batch},
    text,
};

/// Attempts of a batch that conflicts with calls, and the pause between them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The number of renewed rows, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Renewed {
    /// Account types.
    pub account_types: usize,
    /// Organizations.
    pub organizations: usize,
    /// People.
    pub people: usize,
    /// Accounts.
    pub accounts: usize,
    /// Contracts.
    pub contracts: usize,
    /// Portfolios.
    pub portfolios: usize,
    /// Opportunities.
    pub opportunities: usize,
}

impl Renewed {
    /// The number of all renewed rows.
    pub const fn rows(&self) -> usize {
        self.account_types
            + self.organizations
            + self.people
            + self.accounts
            + self.contracts
            + self.portfolios
            + self.opportunities
    }
}

/// Renews the rows of all tenants that need it, and records that this is complete.
pub async fn run(manager: &Manager) -> Result<Renewed, MigrateError> {
    let mut owner = Owner::login(manager).await?;
    let mut renewed = Renewed::default();
    let mut last = String::new();
    while let Some(tenant) = next_tenant(&mut owner, &last).await? {
        // Every stored name is one of a tenant.
        if let Some(tenant) = TenantId::parse(&tenant) {
            renew_tenant(&mut owner, &tenant, &mut renewed).await?;
        }
        last = tenant;
    }
    let conn = owner.begin(None).await?;
    diesel::insert_into(renewals::table)
        .values((
            renewals::folding.eq(search::FOLDING),
            renewals::complete_time.eq(diesel::dsl::now),
        ))
        .on_conflict(renewals::folding)
        .do_update()
        .set(renewals::complete_time.eq(excluded(renewals::complete_time)))
        .execute(conn)
        .await?;
    owner.commit().await?;
    Ok(renewed)
}

async fn renew_tenant(
    owner: &mut Owner,
    tenant: &TenantId,
    renewed: &mut Renewed,
) -> Result<(), MigrateError> {
    let before = renewed.rows();
    renewed.account_types += in_batches(owner, tenant, account_type_keys).await?;
    renewed.organizations += in_batches(owner, tenant, Organization::renew).await?;
    renewed.people += in_batches(owner, tenant, Person::renew).await?;
    renewed.accounts += in_batches(owner, tenant, Account::renew).await?;
    renewed.contracts += in_batches(owner, tenant, Contract::renew).await?;
    renewed.portfolios += in_batches(owner, tenant, Portfolio::renew).await?;
    renewed.opportunities += in_batches(owner, tenant, Opportunity::renew).await?;
    if renewed.rows() > before {
        tracing::info!(%tenant, rows = renewed.rows() - before, "words and sort keys renewed");
    }
    Ok(())
}

/// Renews the unique keys of the names of a tenant's account types, all in one batch because a
/// tenant has few. If two names now have the same key, one account type keeps its old key, and both
/// keep their names. The connection must be the owner's.
async fn account_type_keys(
    conn: &mut AsyncPgConnection,
    tenant: &str,
    after: &str,
) -> QueryResult<Batch> {
    if !after.is_empty() {
        return Ok(None);
    }
    let own = || account_types::table.filter(account_types::tenant_id.eq(tenant));
    let all = own().order(account_types::account_type_id).for_no_key_update();
    let all: Vec<AccountType> = all.select(AccountType::as_select()).load(conn).await?;
    let mut holders: BTreeMap<_, _> = all
        .iter()
        .map(|row| (row.fields.name_key.clone(), row.fields.display_name.clone()))
        .collect();
    let mut renewed = None;
    for AccountType { account_type_id, fields, .. } in all {
        let Fields { display_name: name, name_key, .. } = fields;
        let key = text::caseless(&name);
        if key == name_key {
            continue;
        }
        if let Some(other) = holders.get(&key) {
            tracing::warn!(
                tenant,
                name,
                other,
                "two account types have names that are the same without regard to case; rename \
                 one of them"
            );
            continue;
        }
        diesel::update(own().filter(account_types::account_type_id.eq(&account_type_id)))
            .set(account_types::name_key.eq(&key))
            .execute(conn)
            .await?;
        holders.remove(&name_key);
        holders.insert(key, name);
        renewed = Some((renewed.map_or(0, |(count, _)| count) + 1, account_type_id));
    }
    Ok(renewed)
}

/// The next tenant after this one in the order of ids. A tenant without organizations, people and
/// account types has nothing to renew.
async fn next_tenant(owner: &mut Owner, after: &str) -> Result<Option<String>, DieselError> {
    let conn = owner.begin(None).await?;
    macro_rules! first_of {
        ($table:ident) => {{
            let behind = $table::table.filter($table::tenant_id.gt(after)).order($table::tenant_id);
            behind.select($table::tenant_id).first::<String>(conn).await.optional()?
        }};
    }
    let tenants = [first_of!(organizations), first_of!(people), first_of!(account_types)];
    owner.commit().await?;
    Ok(tenants.into_iter().flatten().min())
}

/// Renews rows in batches, each in its own transaction. Returns the number of rows.
async fn in_batches<F>(
    owner: &mut Owner,
    tenant: &TenantId,
    renew: F,
) -> Result<usize, MigrateError>
where
    F: AsyncFn(&mut AsyncPgConnection, &str, &str) -> QueryResult<Batch>,
{
    let (mut count, mut last, mut failures) = (0, String::new(), 0);
    loop {
        let attempt = async {
            let batch = renew(owner.begin(Some(tenant)).await?, tenant.as_str(), &last).await?;
            owner.commit().await?;
            Ok(batch)
        };
        match attempt.await {
            Ok(None) => return Ok(count),
            Ok(Some((rows, id))) => (count, last, failures) = (count + rows, id, 0),
            Err(error) if failures < ATTEMPTS && is_passing(&error) => {
                failures += 1;
                tracing::debug!(%error, attempt = failures, "a batch of renewals is tried again");
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

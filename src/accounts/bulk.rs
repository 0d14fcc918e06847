//! Many accounts in one transaction: locked by one statement, and inserted by one statement for
//! each table.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    sql_types::{BigInt, Bool, Text},
};
use diesel_async::RunQueryDsl;

use super::{
    store::{Account, Fields},
    words,
};
use crate::{
    db::{WriteTx, taken},
    error::{Error, Result},
    relations::links,
    resource::ACCOUNT,
    schema::accounts,
    search::{self, unnest},
};

/// The accounts with some ids.
#[derive(Debug, Default)]
pub struct Locked {
    /// Those in the caller's reach, by id, locked FOR UPDATE.
    pub accounts: BTreeMap<String, Account>,
    /// The ids of the others.
    pub out_of_reach: BTreeSet<String>,
}

/// The columns of `accounts` that [`Account::insert_all`] sets, one value a row; `None` for the
/// person in a contact slot, which a row that is inserted in bulk does not have.
macro_rules! columns {
    ($rows:expr, $field:ident) => {
        unnest($rows.iter().map(|(_, fields)| &fields.$field).collect::<Vec<_>>())
    };
    ($rows:expr, $field:ident?) => {
        unnest($rows.iter().map(|(_, fields)| fields.$field.as_ref()).collect::<Vec<_>>())
    };
}

impl Account {
    /// Locks the accounts with these ids, in the order of their ids, and with them the present
    /// primary accounts of these organizations, as [`Account::find_for_update_to`] does. The order
    /// keeps two transactions that lock the same accounts from waiting for each other.
    pub async fn lock_all(
        tx: &WriteTx,
        ids: &BTreeSet<&str>,
        primary_of: &BTreeSet<&str>,
    ) -> Result<Locked> {
        let mut wanted: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        if !primary_of.is_empty() {
            let primaries = accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .filter(accounts::organization_id.eq_any(primary_of).and(accounts::is_primary))
                .select(accounts::account_id);
            wanted.extend(primaries.load::<String>(&mut tx.conn()).await?);
        }
        if wanted.is_empty() {
            return Ok(Locked::default());
        }
        let rows = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::account_id.eq_any(&wanted).and(tx.accounts_in_reach()))
            .order(accounts::account_id)
            .select(Self::as_select())
            .for_update();
        let rows = rows.load::<Self>(&mut tx.conn()).await?;
        let accounts: BTreeMap<_, _> =
            rows.into_iter().map(|row| (row.account_id.clone(), row)).collect();
        let mut out_of_reach = BTreeSet::new();
        if tx.is_limited() {
            let all = accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .filter(accounts::account_id.eq_any(&wanted))
                .select(accounts::account_id);
            out_of_reach.extend(all.load::<String>(&mut tx.conn()).await?);
            out_of_reach.retain(|id| !accounts.contains_key(id));
        }
        Ok(Locked { accounts, out_of_reach })
    }

    /// Inserts accounts that are not primary and have no person in a contact slot, with their links
    /// and words, and records them. The caller must have checked what they refer to, hold their
    /// organizations, and sort the rows by id. Fails with [`Error::Retry`] if another transaction
    /// has taken one of the ids: the work then finds that account.
    pub async fn insert_all(tx: &WriteTx, rows: Vec<(String, Fields)>) -> Result<Vec<Self>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids = || rows.iter().map(|(id, _)| id).collect::<Vec<_>>();
        let status: Vec<_> = rows.iter().map(|(_, fields)| fields.status.name()).collect();
        let values = diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            unnest(ids()),
            search::stamp(1).into_sql::<BigInt>(),
            false.into_sql::<Bool>(),
            unnest(status),
            columns!(rows, display_name),
            columns!(rows, sort_key),
            columns!(rows, description),
            columns!(rows, organization_id),
            columns!(rows, account_type_id?),
            columns!(rows, status_reason),
            columns!(rows, primary_contact?),
            columns!(rows, billing_address?),
            columns!(rows, shipping_address?),
            columns!(rows, postal_address?),
            columns!(rows, official_address?),
            columns!(rows, billing_details),
            columns!(rows, preferences?),
            columns!(rows, comment),
            columns!(rows, metadata),
            columns!(rows, tax_id),
            columns!(rows, account_manager_id?),
        ));
        let insert = diesel::insert_into(accounts::table)
            .values(values)
            .into_columns((
                accounts::tenant_id,
                accounts::account_id,
                accounts::folded,
                accounts::is_primary,
                accounts::status,
                accounts::display_name,
                accounts::sort_key,
                accounts::description,
                accounts::organization_id,
                accounts::account_type_id,
                accounts::status_reason,
                accounts::primary_contact,
                accounts::billing_address,
                accounts::shipping_address,
                accounts::postal_address,
                accounts::official_address,
                accounts::billing_details,
                accounts::preferences,
                accounts::comment,
                accounts::metadata,
                accounts::tax_id,
                accounts::account_manager_id,
            ))
            .returning((accounts::account_id, accounts::incarnation, accounts::create_time));
        let made = insert.load::<(String, String, DateTime<Utc>)>(&mut tx.conn()).await;
        let made = made.map_err(|error| {
            let error = taken(error, &ACCOUNT, &[("accounts_pkey", "account_id", "")]);
            if error.reason() == ACCOUNT.already_exists { Error::Retry } else { error }
        })?;
        let organizations = rows.iter().map(|(_, fields)| &*fields.organization_id);
        links::insert_own_all(tx, ids(), organizations.collect()).await?;
        let words = rows.iter().map(|(id, fields)| (id.as_str(), fields.words(id)));
        words::insert_all(tx, words.collect()).await?;
        let made: BTreeMap<_, _> =
            made.into_iter().map(|(id, incarnation, time)| (id, (incarnation, time))).collect();
        let inserted: Vec<_> =
            rows.into_iter().map(|row| inserted(row, &made)).collect::<Result<_>>()?;
        inserted.iter().try_for_each(|account| tx.created(account))?;
        Ok(inserted)
    }
}

/// The row of an account as the database has it after the insert.
fn inserted(
    (account_id, fields): (String, Fields),
    made: &BTreeMap<String, (String, DateTime<Utc>)>,
) -> Result<Account> {
    let (incarnation, time) = made
        .get(&account_id)
        .cloned()
        .ok_or_else(|| Error::internal("an account that was inserted is not returned"))?;
    Ok(Account {
        account_id,
        fields,
        revision: 1,
        create_time: time,
        update_time: time,
        incarnation,
        folded: search::stamp(1),
    })
}

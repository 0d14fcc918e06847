//! The account that a person buys on.

use std::borrow::Cow;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::{
    db::{AccountRef, BelongsTo, Recorded, WriteTx},
    error::Result,
    resource::PERSON,
    schema::people,
};

/// Clears the purchasing account of everyone who buys on this account. The caller must hold the
/// account FOR UPDATE, so that nobody chooses it meanwhile.
pub async fn clear_purchasing_account(tx: &WriteTx, account: AccountRef<'_>) -> Result<()> {
    let buyers = || {
        people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::purchasing_account_id.eq(account.account_id))
    };
    let ids = buyers().order(people::person_id).select(people::person_id).for_no_key_update();
    let ids: Vec<String> = ids.load(&mut tx.conn()).await?;
    if ids.is_empty() {
        return Ok(());
    }
    // People who chose another account while this waited for the locks no longer match; nobody new
    // does.
    diesel::update(buyers().filter(people::person_id.eq_any(&ids)))
        .set(people::purchasing_account_id.eq(None::<String>))
        .execute(&mut tx.conn())
        .await?;
    for person_id in ids {
        record_purchasing(tx, &person_id, account, false)?;
    }
    Ok(())
}

/// The purchasing account of a person, as the trail records it.
#[derive(Debug, Clone, Copy, Serialize)]
struct BuysOn<'a> {
    #[serde(skip)]
    person: &'a str,
    #[serde(skip)]
    account: AccountRef<'a>,
    purchasing_account_id: Option<&'a str>,
}

impl Recorded for BuysOn<'_> {
    const NOUN: &'static str = PERSON.noun;

    fn id(&self) -> Cow<'_, str> {
        self.person.into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account)
    }
}

/// Records in the trail that a person buys on an account, or no longer does.
pub fn record_purchasing(
    tx: &WriteTx,
    person_id: &str,
    account: AccountRef<'_>,
    buys: bool,
) -> Result<()> {
    let elsewhere = BuysOn { person: person_id, account, purchasing_account_id: None };
    let here = BuysOn { purchasing_account_id: Some(account.account_id), ..elsewhere };
    if buys { tx.updated(&elsewhere, &here) } else { tx.updated(&here, &elsewhere) }
}

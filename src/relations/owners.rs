//! The owners of opportunities, for the deletion of a person.

use std::borrow::Cow;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::{
    db::{AccountRef, BelongsTo, Recorded, WriteTx},
    error::Result,
    schema::opportunities,
    search::FOLDINGS,
};

/// The owner of an opportunity, as the trail records it.
#[derive(Debug, Serialize)]
struct Owned<'a> {
    #[serde(skip)]
    opportunity_id: &'a str,
    #[serde(skip)]
    account: AccountRef<'a>,
    owner_id: Option<&'a str>,
}

impl Recorded for Owned<'_> {
    const NOUN: &'static str = "opportunity";

    fn id(&self) -> Cow<'_, str> {
        self.opportunity_id.into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account)
    }
}

/// Empties the owner of every opportunity that the person owns. The caller must hold the person FOR
/// UPDATE, so that other transactions that make the person an owner wait.
pub async fn clear(tx: &WriteTx, person_id: &str) -> Result<()> {
    let mut owned: Vec<(String, String, String)> =
        diesel::update(opportunities::table.filter(tx.owns(opportunities::tenant_id)))
            .filter(opportunities::owner_id.eq(person_id))
            .set((
                opportunities::owner_id.eq(None::<String>),
                opportunities::folded.eq(opportunities::folded + FOLDINGS),
                opportunities::revision.eq(opportunities::revision + 1),
                opportunities::update_time.eq(diesel::dsl::now),
            ))
            .returning((
                opportunities::opportunity_id,
                opportunities::account_id,
                opportunities::incarnation,
            ))
            .get_results(&mut tx.conn())
            .await?;
    owned.sort();
    for (opportunity_id, account_id, incarnation) in &owned {
        let account = AccountRef { account_id, incarnation };
        let owned = |owner_id| Owned { opportunity_id, account, owner_id };
        tx.updated(&owned(Some(person_id)), &owned(None))?;
    }
    Ok(())
}

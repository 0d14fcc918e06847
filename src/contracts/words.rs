//! The words that searches of contracts find them by.

use diesel::{prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::store::{Contract, Fields};
use crate::{
    db::WriteTx,
    error::Result,
    schema::{contract_words, contracts},
    search::{self, Batch, unnest},
};

impl Contract {
    /// Renews the sort keys and words of the tenant's next rows, in the order of ids after `after`.
    /// The connection must be the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(
            conn,
            tenant,
            after,
            contracts,
            contract_words,
            contract_id,
            |row| row.fields,
            title
        )
    }

    /// Replaces the words of the contract if the update changed them or another version derived
    /// them.
    pub(super) async fn renew_words(&self, tx: &WriteTx, updated: &Self) -> Result<()> {
        if updated.words() == self.words() && self.folded == search::stamp(self.revision) {
            return Ok(());
        }
        let words = contract_words::table.filter(tx.owns(contract_words::tenant_id));
        diesel::delete(words.filter(contract_words::contract_id.eq(&self.contract_id)))
            .execute(&mut tx.conn())
            .await?;
        updated.insert_words(tx).await
    }

    fn words(&self) -> Vec<String> {
        let Fields { title, reference, .. } = &self.fields;
        search::words([self.contract_id.as_str(), title, reference])
    }

    pub(super) async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(contract_words::table)
            .values(diesel::select((
                tx.tenant_id().into_sql::<Text>(),
                self.contract_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((
                contract_words::tenant_id,
                contract_words::contract_id,
                contract_words::word,
            ))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }
}

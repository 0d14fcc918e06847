//! The words that searches of accounts find them by.

use diesel::{prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::store::{Account, Fields};
use crate::{
    db::WriteTx,
    error::Result,
    schema::{account_words, accounts},
    search::{self, Batch, unnest},
};

impl Account {
    /// Renews the sort keys and words of the tenant's next rows, in the order of ids after `after`.
    /// The connection must be the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(conn, tenant, after, accounts, account_words, account_id, |row| row.fields)
    }

    /// Replaces the words of the account if the new fields change them or another version derived
    /// them.
    pub(super) async fn renew_words(&self, tx: &WriteTx, fields: &Fields) -> Result<()> {
        let words = fields.words(&self.account_id);
        if words == self.words() && self.folded == search::stamp(self.revision) {
            return Ok(());
        }
        let delete = async {
            let words =
                diesel::delete(account_words::table.filter(tx.owns(account_words::tenant_id)))
                    .filter(account_words::account_id.eq(&self.account_id));
            tx.send(words).await?;
            Ok(())
        };
        tx.together(delete, insert(tx, &self.account_id, words)).await.map(drop)
    }

    fn words(&self) -> Vec<String> {
        self.fields.words(&self.account_id)
    }
}

impl Fields {
    /// The words of the account and its metadata, and a reference to the person who is its primary
    /// contact. That person's words are not copied here, because updating the person changes them.
    pub(super) fn words(&self, account_id: &str) -> Vec<String> {
        let inline = self
            .primary_contact
            .iter()
            .flat_map(|contact| [contact.0.name.as_str(), &contact.0.email]);
        let own = [account_id, &self.display_name, &self.tax_id];
        let mut words = search::words(own.into_iter().chain(inline));
        words.extend(self.metadata.words());
        words.extend(self.primary_contact_id.as_deref().map(reference_to));
        words
    }
}

/// Inserts the words of an account.
pub(super) async fn insert(tx: &WriteTx, account_id: &str, words: Vec<String>) -> Result<()> {
    let insert = diesel::insert_into(account_words::table)
        .values(diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            account_id.into_sql::<Text>(),
            unnest(words),
        )))
        .into_columns((account_words::tenant_id, account_words::account_id, account_words::word));
    tx.send(insert).await?;
    Ok(())
}

/// Inserts the words of new accounts.
pub(super) async fn insert_all(tx: &WriteTx, words: Vec<(&str, Vec<String>)>) -> Result<()> {
    let (ids, words): (Vec<_>, Vec<_>) = words
        .into_iter()
        .flat_map(|(id, words)| words.into_iter().map(move |word| (id, word)))
        .unzip();
    let insert = diesel::insert_into(account_words::table)
        .values(diesel::select((tx.tenant_id().into_sql::<Text>(), unnest(ids), unnest(words))))
        .into_columns((account_words::tenant_id, account_words::account_id, account_words::word));
    tx.send(insert).await?;
    Ok(())
}

/// The word by which an account refers to a person. No other word begins with `@`.
pub(super) fn reference_to(person_id: &str) -> String {
    format!("@{person_id}")
}

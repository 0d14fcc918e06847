//! The primary account of an organization. An organization has at most one: setting the flag on an
//! account clears it on the present one.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::store::Account;
use crate::{
    db::WriteTx,
    error::{Error, Result},
    organizations::store::Organization,
    schema::accounts,
    search,
};

/// Selects the primary account of an organization, unless it is `except`.
macro_rules! primary_of {
    ($tx:expr, $organization_id:expr, $except:expr) => {
        accounts::table
            .filter($tx.owns(accounts::tenant_id))
            .filter(accounts::organization_id.eq($organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne($except)))
            .select(accounts::account_id)
    };
}

/// What an update says about the account's organization and primary flag.
#[derive(Debug)]
pub struct Target {
    /// The new organization; `None` if the update does not name it.
    pub organization_id: Option<String>,
    /// The new primary flag; `None` if the update does not name it.
    pub is_primary: Option<bool>,
}

impl Account {
    /// Returns the account with this id and locks it as [`Account::find_for_update`] does. If the
    /// update may make it the primary account of its organization, locks the present primary
    /// account first, in the order of ids.
    pub async fn find_for_update_to(
        tx: &WriteTx,
        account_id: &str,
        target: &Target,
    ) -> Result<Self> {
        if target.organization_id.is_none() && target.is_primary.is_none() {
            return Self::find_for_update(tx, account_id).await;
        }
        let own = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::account_id.eq(account_id));
        let own = own.select((accounts::organization_id, accounts::is_primary));
        if let Some((organization_id, is_primary)) =
            own.first::<(String, bool)>(&mut tx.conn()).await.optional()?
            && target.is_primary.unwrap_or(is_primary)
        {
            Self::lock_with_primary(
                tx,
                account_id,
                target.organization_id.as_ref().unwrap_or(&organization_id),
            )
            .await?;
        }
        Self::find_for_update(tx, account_id).await
    }

    /// Locks an account and the primary account of an organization in the order of their ids.
    /// Otherwise two transactions that exchange the flag between two accounts could wait for each
    /// other. Accounts are locked before organizations.
    pub(super) async fn lock_with_primary(
        tx: &WriteTx,
        account_id: &str,
        organization_id: &str,
    ) -> Result<()> {
        let present = primary_of!(tx, organization_id, account_id)
            .first::<String>(&mut tx.conn())
            .await
            .optional()?;
        if let Some(present) = present {
            let both = accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .filter(accounts::account_id.eq_any([account_id, &present]));
            let both = both.order(accounts::account_id).select(accounts::account_id).for_update();
            both.load::<String>(&mut tx.conn()).await?;
        }
        Ok(())
    }

    /// Clears the primary flag of the organization's account that has it, unless that is `except`.
    /// Locks the organization, so that other transactions that set the flag wait.
    ///
    /// The caller must have locked the present primary account (`lock_with_primary`). If another
    /// account has become primary since, this does not wait for its lock, because the transaction
    /// that holds it may wait for the organization: it returns [`Error::Retry`], and the work runs
    /// again.
    pub(super) async fn clear_primary(
        tx: &WriteTx,
        organization_id: &str,
        except: &str,
    ) -> Result<()> {
        Organization::lock(tx, organization_id).await?;
        let present = primary_of!(tx, organization_id, except)
            .for_update()
            .no_wait()
            .first::<String>(&mut tx.conn())
            .await;
        match present.optional().map_err(Error::from) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(Error::Locked) => return Err(Error::Retry),
            Err(error) => return Err(error),
        }
        let cleared = diesel::update(accounts::table.filter(tx.owns(accounts::tenant_id)))
            .filter(accounts::organization_id.eq(organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne(except)))
            .set((
                accounts::is_primary.eq(false),
                accounts::folded.eq(accounts::folded + search::FOLDINGS),
                accounts::revision.eq(accounts::revision + 1),
                accounts::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_results::<Self>(&mut tx.conn())
            .await?;
        for now in cleared {
            let mut before = now.clone();
            before.fields.is_primary = true;
            tx.updated(&before, &now)?;
        }
        Ok(())
    }
}

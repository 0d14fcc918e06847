//! The primary account of an organization: at most one, and setting the flag takes it from the
//! present one.

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

/// The primary account of an organization, if it is not `except`.
macro_rules! primary_of {
    ($tx:expr, $organization_id:expr, $except:expr) => {
        accounts::table
            .filter($tx.owns(accounts::tenant_id))
            .filter(accounts::organization_id.eq($organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne($except)))
            .select(accounts::account_id)
    };
}

/// What an update says of an account's place as a primary account.
#[derive(Debug)]
pub struct Target {
    /// The organization that it names; `None` if that stays.
    pub organization_id: Option<String>,
    /// The primary flag that it names; `None` if that stays.
    pub is_primary: Option<bool>,
}

impl Account {
    /// The account with this id, locked as by `find_for_update`, for an update that may make it the
    /// primary account of the organization it then belongs to: the present primary account is
    /// locked with it.
    pub async fn find_for_update_to(
        tx: &WriteTx,
        account_id: &str,
        target: &Target,
    ) -> Result<Self> {
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

    /// Locks an account and the primary account of an organization in the order of their ids: two
    /// accounts that take each other's place would otherwise each wait for the other. Accounts are
    /// locked before organizations.
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

    /// Takes the primary flag from whatever account of the organization has it, unless it is
    /// `except`. Others who want the flag wait for the organization.
    ///
    /// The transaction has locked that account before (`lock_with_primary`). Another one that has
    /// become primary since is not waited for: whoever holds it may wait for the organization. The
    /// work is then tried again.
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

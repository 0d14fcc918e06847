//! The overview of an account: what one page shows of it, from the rows of several slices. The call
//! belongs to `AccountService`, which gets the query from the server because the slices of these
//! rows use accounts.

mod store;
mod wire;

use futures_util::future::BoxFuture;

use self::store::Overview;
use crate::{db::Tx, error::Result, proto::GetAccountOverviewResponse};

/// Reads the overview of an account.
pub fn read<'a>(
    tx: &'a Tx,
    account_id: &'a str,
) -> BoxFuture<'a, Result<GetAccountOverviewResponse>> {
    Box::pin(async move { Ok(Overview::find(tx, account_id).await?.into()) })
}

//! The overview of an account: what one page shows of it, from the rows of several slices. The call
//! belongs to `AccountService`, which gets it from the server because accounts are below the others.

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

//! What tenants of one connection do to each other's plans.

use customer_accounts::proto::{
    BatchGetAccountsRequest, CheckMembershipRequest, GetAccountRequest,
};

use super::{CUSTOM_PLANS, Uses, memberships};
use crate::support::{Tenant, unique};

/// The generic plan of a prepared statement is made under one tenant and serves all that come after
/// it on the connection. Made under a tenant without rows it must be as good as any.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_rows_does_not_spoil_the_plans_of_others() {
    let Some(on) = memberships::measured().await else { return };
    let mut empty = on.tenant.clone();
    empty.caller.tenant = format!("t-{}", unique());
    for _ in 0..2 * CUSTOM_PLANS {
        hot_reads(&empty).await;
    }
    on.settle().await;
    on.tap.take();
    for _ in 0..2 * CUSTOM_PLANS {
        hot_reads(&on.tenant).await;
        let texts = [
            "\"accounts\".\"account_id\" = $2",
            "\"accounts\".\"account_id\" = ANY",
            "\"people\".\"purchasing_account_id\"",
        ];
        let [one, many, check] = on.plans_of(texts).await;
        one.check("GetAccount", &Uses("accounts_pkey", "account_id = "), 5);
        many.check("BatchGetAccounts", &Uses("accounts_pkey", "account_id = "), 500);
        check.check("CheckMembership", &Uses("accounts_pkey", "account_id = "), 60);
    }
}

/// The reads whose statements are planned once.
async fn hot_reads(tenant: &Tenant) {
    let account = || "acct-42".to_owned();
    let _ = tenant.accounts().get_account(GetAccountRequest { account_id: account() }).await;
    let account_ids = (1..=100).map(|n| format!("acct-{}", n * 7)).collect();
    let _ = tenant.accounts().batch_get_accounts(BatchGetAccountsRequest { account_ids }).await;
    let check =
        CheckMembershipRequest { account_id: account(), person_id: memberships::person(17_901) };
    let _ = tenant.memberships().check_membership(check).await;
}

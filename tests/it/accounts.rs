//! Accounts through gRPC.

use customer_accounts::proto::{
    Account, Address, Contact, CreateAccountRequest, DeleteAccountRequest, GetAccountRequest, UpdateAccountRequest,
};
use tonic::Code;

use crate::support::{Tenant, account, reason, violations};

#[tokio::test]
async fn a_request_with_eight_mistakes_is_answered_with_eight_field_violations() {
    let tenant = Tenant::new().await;
    let account = Account {
        account_id: "x".repeat(51),
        display_name: " padded".into(),
        organization_id: String::new(),
        status: 9,
        primary_contact: Some(Contact { name: "Jane".into(), email: "nobody".into(), ..Default::default() }),
        billing_address: Some(Address { country: "xx".into(), ..Default::default() }),
        metadata: [("bad key".to_owned(), String::new())].into(),
        ..Default::default()
    };
    let request = CreateAccountRequest { account: Some(account), request_id: "with blank".into(), ..Default::default() };
    let violations = violations(tenant.accounts().create_account(request).await);
    insta::assert_debug_snapshot!(violations, @"");
}

#[tokio::test]
async fn an_account_is_created_read_updated_and_deleted() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let created = tenant.account(account("a", "acme")).await;
    assert_eq!(reason(tenant.try_account(account("a", "acme")).await), (Code::AlreadyExists, "ACCOUNT_ALREADY_EXISTS".into()));
    let mut accounts = tenant.accounts();
    let read = accounts.get_account(GetAccountRequest { account_id: "a".into() }).await.unwrap().into_inner().account.unwrap();
    assert_eq!(read, created);
    let wanted = Account { account_id: "a".into(), comment: "new".into(), etag: created.etag.clone(), ..Default::default() };
    let update = UpdateAccountRequest { account: Some(wanted), ..Default::default() };
    let updated = accounts.update_account(update.clone()).await.unwrap().into_inner().account.unwrap();
    assert_eq!(updated.comment, "new");
    assert_eq!(reason(accounts.update_account(update).await), (Code::Aborted, "ETAG_MISMATCH".into()));
    let delete = DeleteAccountRequest { account_id: "a".into(), ..Default::default() };
    accounts.delete_account(delete.clone()).await.unwrap();
    assert_eq!(reason(accounts.delete_account(delete).await), (Code::NotFound, "ACCOUNT_NOT_FOUND".into()));
}

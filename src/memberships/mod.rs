//! Memberships: who may use an account, who gets its invoices, who may buy on it.

pub mod accounts;
pub mod checks;
pub mod links;
pub mod recipients;
mod refusals;
pub mod store;
pub mod users;
mod wire;

use tonic::Request;

use self::{
    accounts::PersonAccount,
    checks::Check,
    links::Link,
    recipients::Recipient,
    store::NewUser,
    users::{HeldUser, User, UserFilter},
};
use crate::{
    budget::{Budget, Weighed as _},
    call::{Call as _, Reply, reply},
    db::{Db, Tx},
    page::response,
    proto::{
        self, AddAccountUserRequest, AddAccountUserResponse, BatchCheckMembershipsRequest,
        BatchCheckMembershipsResponse, CheckMembershipRequest, CheckMembershipResponse,
        LinkOrganizationRequest, LinkOrganizationResponse, ListAccountUsersRequest,
        ListAccountUsersResponse, ListBillingRecipientsRequest, ListBillingRecipientsResponse,
        ListLinkedOrganizationsRequest, ListLinkedOrganizationsResponse, ListPersonAccountsRequest,
        ListPersonAccountsResponse, RemoveAccountUserRequest, RemoveAccountUserResponse,
        SetPurchasingAccountRequest, SetPurchasingAccountResponse, UnlinkOrganizationRequest,
        UnlinkOrganizationResponse, UpdateAccountUserRequest, UpdateAccountUserResponse,
        membership_service_server::MembershipService,
    },
};

/// The calls of `accounts.v1.MembershipService`.
#[derive(Debug)]
pub struct Service {
    /// Where the memberships are.
    pub db: Db,
}

#[tonic::async_trait]
impl MembershipService for Service {
    async fn add_account_user(
        &self,
        request: Request<AddAccountUserRequest>,
    ) -> Reply<AddAccountUserResponse> {
        let (caller, meta, new) = request.change(NewUser::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(AddAccountUserResponse { account_user: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn update_account_user(
        &self,
        request: Request<UpdateAccountUserRequest>,
    ) -> Reply<UpdateAccountUserResponse> {
        let (caller, meta, update) = request.update(wire::ELSEWHERE)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let proto::AccountUser { account_id, person_id, .. } = &update.wanted;
            let current = HeldUser::find(tx, account_id, person_id).await?;
            let roles = &tx.tenant().await?.settings.membership_roles;
            let fields = update.fields(&current.user, roles)?;
            let user = current.update(tx, &fields).await?;
            Ok(UpdateAccountUserResponse { account_user: Some(user.into()) })
        });
        reply(work.await)
    }

    async fn remove_account_user(
        &self,
        request: Request<RemoveAccountUserRequest>,
    ) -> Reply<RemoveAccountUserResponse> {
        let (caller, meta, named) = request.change(wire::removal)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|(account, person)| HeldUser::find(tx, account, person));
            let left = current.await?.remove(tx).await?;
            Ok(RemoveAccountUserResponse { account_user: left.map(Into::into) })
        });
        reply(work.await)
    }

    async fn list_account_users(
        &self,
        request: Request<ListAccountUsersRequest>,
    ) -> Reply<ListAccountUsersResponse> {
        let (caller, filter, page) = request.list(UserFilter::parse)?;
        let list = async |tx: &Tx| User::list(tx, &filter, &page).await;
        // Without terms, one plan serves every account, and planning takes longer than the query.
        let listing = if filter.query.is_empty() {
            self.db.read(&caller, list).await?
        } else {
            self.db.list(&caller, list).await?
        };
        reply(Ok(response!(ListAccountUsersResponse { account_users }, listing)))
    }

    async fn link_organization(
        &self,
        request: Request<LinkOrganizationRequest>,
    ) -> Reply<LinkOrganizationResponse> {
        let (caller, meta, (account_id, organization_id, below)) = request.change(wire::link)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let link = Link::put(tx, &account_id, &organization_id, below).await?;
            Ok(LinkOrganizationResponse { linked_organization: Some(link.into()) })
        });
        reply(work.await)
    }

    async fn unlink_organization(
        &self,
        request: Request<UnlinkOrganizationRequest>,
    ) -> Reply<UnlinkOrganizationResponse> {
        let (caller, meta, (account_id, organization_id)) = request.change(wire::unlink)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Link::remove(tx, &account_id, &organization_id).await?;
            Ok(UnlinkOrganizationResponse {})
        });
        reply(work.await)
    }

    async fn list_linked_organizations(
        &self,
        request: Request<ListLinkedOrganizationsRequest>,
    ) -> Reply<ListLinkedOrganizationsResponse> {
        let (caller, account_id, page) =
            request.list(|v, request| v.id("account_id", request.account_id))?;
        let work = self.db.list(&caller, async |tx| Link::list(tx, &account_id, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListLinkedOrganizationsResponse { linked_organizations }, listing)))
    }

    async fn list_billing_recipients(
        &self,
        request: Request<ListBillingRecipientsRequest>,
    ) -> Reply<ListBillingRecipientsResponse> {
        let (caller, account_id, page) =
            request.list(|v, request| v.id("account_id", request.account_id))?;
        // One plan serves every account, and planning takes longer than the query.
        let work = self.db.read(&caller, async |tx| Recipient::list(tx, &account_id, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListBillingRecipientsResponse { recipients }, listing)))
    }

    async fn set_purchasing_account(
        &self,
        request: Request<SetPurchasingAccountRequest>,
    ) -> Reply<SetPurchasingAccountResponse> {
        let (caller, meta, (person_id, account_id)) = request.change(wire::purchasing)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let person =
                checks::set_purchasing_account(tx, &person_id, account_id.as_deref()).await?;
            Ok(SetPurchasingAccountResponse { person: Some(person.into()) })
        });
        reply(work.await)
    }

    async fn check_membership(
        &self,
        request: Request<CheckMembershipRequest>,
    ) -> Reply<CheckMembershipResponse> {
        let (caller, (account_id, person_id)) = request.read(wire::check)?;
        let check = Check::get(&self.db, &caller, &account_id, &person_id).await?;
        Budget::default().spend(check.weight())?;
        reply(Ok(check.into()))
    }

    async fn batch_check_memberships(
        &self,
        request: Request<BatchCheckMembershipsRequest>,
    ) -> Reply<BatchCheckMembershipsResponse> {
        let (caller, pairs) = request.read(wire::checks)?;
        let checks = self.db.read(&caller, async |tx| Check::find_all(tx, &pairs).await).await?;
        let responses = checks.into_iter().map(Into::into).collect();
        reply(Ok(BatchCheckMembershipsResponse { responses }))
    }

    async fn list_person_accounts(
        &self,
        request: Request<ListPersonAccountsRequest>,
    ) -> Reply<ListPersonAccountsResponse> {
        let (caller, person_id, page) =
            request.list(|v, request| v.id("person_id", request.person_id))?;
        let work =
            self.db.list(&caller, async |tx| PersonAccount::list(tx, &person_id, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListPersonAccountsResponse { accounts }, listing)))
    }
}

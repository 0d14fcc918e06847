//! Memberships: who may use an account, who gets its invoices, who may buy on it.

pub mod accounts;
pub mod checks;
pub mod links;
pub mod recipients;
mod refusals;
pub mod slots;
pub mod sources;
pub mod store;
pub mod users;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    accounts::PersonAccount,
    checks::Check,
    links::Link,
    recipients::Recipient,
    slots::Scope,
    store::{NewUser, Record},
    users::{User, UserFilter},
    wire::{Pair, Update},
};
use crate::{
    accounts::store::Account,
    budget::{Budget, Weighed as _},
    caller::RequestExt as _,
    db::{Db, Meta},
    organizations::store::Organization,
    page::response,
    proto::{
        AddAccountUserRequest, AddAccountUserResponse, BatchCheckMembershipsRequest,
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
        mut request: Request<AddAccountUserRequest>,
    ) -> Result<Response<AddAccountUserResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let new = NewUser::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Ok(AddAccountUserResponse { account_user: Some(new.insert(tx).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn update_account_user(
        &self,
        mut request: Request<UpdateAccountUserRequest>,
    ) -> Result<Response<UpdateAccountUserResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let (account_id, person_id) = (&update.account_id, &update.person_id);
                let account = Account::find_for_update(tx, account_id).await?;
                // A move of an organization could otherwise leave behind what is set here for a
                // user through it.
                Organization::hold_the_forest(tx).await?;
                let guard = slots::guard(tx, Scope::Person(person_id)).await?;
                let find = async || {
                    User::find(tx, account_id, person_id)
                        .await?
                        .ok_or_else(|| refusals::account_user_not_found(account_id, person_id))
                };
                let user = find().await?;
                let fields = update.apply(&user, &tx.tenant().await?.settings.membership_roles)?;
                Record::put(tx, &account, &user.person, user.record, &fields).await?;
                guard.settle(tx).await?;
                Ok(UpdateAccountUserResponse { account_user: Some(find().await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn remove_account_user(
        &self,
        mut request: Request<RemoveAccountUserRequest>,
    ) -> Result<Response<RemoveAccountUserResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let RemoveAccountUserRequest { account_id, person_id, etag, request_id, .. } =
            request.into_inner();
        let pair = Pair::person(account_id, person_id, etag, &request_id)?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let (account_id, person_id) = (&pair.account_id, &pair.other_id);
                let account = Account::find_for_update(tx, account_id).await?;
                // A move of an organization could otherwise leave behind what is set here for a
                // user through it.
                Organization::hold_the_forest(tx).await?;
                let guard = slots::guard(tx, Scope::Person(person_id)).await?;
                let user = User::find(tx, account_id, person_id).await?;
                let user =
                    user.ok_or_else(|| refusals::account_user_not_found(account_id, person_id))?;
                pair.check(&user)?;
                if !user.is_individual() {
                    let through = &user.organization_ids;
                    return Err(refusals::user_through_organization(
                        account_id, person_id, through,
                    ));
                }
                Record::remove(tx, &account, &user).await?;
                guard.settle(tx).await?;
                let left = User::find(tx, account_id, person_id).await?;
                Ok(RemoveAccountUserResponse { account_user: left.map(Into::into) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_account_users(
        &self,
        mut request: Request<ListAccountUsersRequest>,
    ) -> Result<Response<ListAccountUsersResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = UserFilter::parse(&caller, request.into_inner())?;
        let listing =
            self.db.list(&caller, async |tx| User::list(tx, &filter, &page).await).await?;
        Ok(Response::new(response!(ListAccountUsersResponse { account_users }, listing)))
    }

    async fn link_organization(
        &self,
        mut request: Request<LinkOrganizationRequest>,
    ) -> Result<Response<LinkOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let LinkOrganizationRequest {
            account_id,
            organization_id,
            include_descendants,
            request_id,
            ..
        } = request.into_inner();
        let pair = Pair::organization(account_id, organization_id, &request_id)?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let link =
                    Link::put(tx, &pair.account_id, &pair.other_id, include_descendants).await?;
                Ok(LinkOrganizationResponse { linked_organization: Some(link.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn unlink_organization(
        &self,
        mut request: Request<UnlinkOrganizationRequest>,
    ) -> Result<Response<UnlinkOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let UnlinkOrganizationRequest { account_id, organization_id, request_id, .. } =
            request.into_inner();
        let pair = Pair::organization(account_id, organization_id, &request_id)?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Link::remove(tx, &pair.account_id, &pair.other_id).await?;
                Ok(UnlinkOrganizationResponse {})
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_linked_organizations(
        &self,
        mut request: Request<ListLinkedOrganizationsRequest>,
    ) -> Result<Response<ListLinkedOrganizationsResponse>, Status> {
        let caller = request.caller()?;
        let (account_id, page) = wire::links(&caller, request.into_inner())?;
        let listing =
            self.db.list(&caller, async |tx| Link::list(tx, &account_id, &page).await).await?;
        Ok(Response::new(response!(
            ListLinkedOrganizationsResponse { linked_organizations },
            listing
        )))
    }

    async fn list_billing_recipients(
        &self,
        mut request: Request<ListBillingRecipientsRequest>,
    ) -> Result<Response<ListBillingRecipientsResponse>, Status> {
        let caller = request.caller()?;
        let (account_id, page) = wire::recipients(&caller, request.into_inner())?;
        let listing =
            self.db.list(&caller, async |tx| Recipient::list(tx, &account_id, &page).await).await?;
        Ok(Response::new(response!(ListBillingRecipientsResponse { recipients }, listing)))
    }

    async fn set_purchasing_account(
        &self,
        mut request: Request<SetPurchasingAccountRequest>,
    ) -> Result<Response<SetPurchasingAccountResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let (person_id, account_id) = wire::purchasing(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let person =
                    checks::set_purchasing_account(tx, &person_id, account_id.as_deref()).await?;
                Ok(SetPurchasingAccountResponse { person: Some(person.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn check_membership(
        &self,
        mut request: Request<CheckMembershipRequest>,
    ) -> Result<Response<CheckMembershipResponse>, Status> {
        let caller = request.caller()?;
        let (account_id, person_id) = wire::check(request.into_inner())?;
        let check = self
            .db
            .read(&caller, async |tx| Check::find(tx, &account_id, &person_id).await)
            .await?;
        Budget::default().spend(check.weight())?;
        Ok(Response::new(check.into()))
    }

    async fn batch_check_memberships(
        &self,
        mut request: Request<BatchCheckMembershipsRequest>,
    ) -> Result<Response<BatchCheckMembershipsResponse>, Status> {
        let caller = request.caller()?;
        let pairs = wire::checks(request.into_inner())?;
        let checks = self.db.read(&caller, async |tx| Check::find_all(tx, &pairs).await).await?;
        Ok(Response::new(BatchCheckMembershipsResponse {
            responses: checks.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_person_accounts(
        &self,
        mut request: Request<ListPersonAccountsRequest>,
    ) -> Result<Response<ListPersonAccountsResponse>, Status> {
        let caller = request.caller()?;
        let (person_id, page) = wire::accounts(&caller, request.into_inner())?;
        let listing = self
            .db
            .list(&caller, async |tx| PersonAccount::list(tx, &person_id, &page).await)
            .await?;
        Ok(Response::new(response!(ListPersonAccountsResponse { accounts }, listing)))
    }
}

//! Memberships: who uses an account, who gets its invoices, who may buy on it, and contacts who
//! stay users.

use chrono::{Datelike as _, Days, Utc};
use customer_accounts::proto::{
    Account, AccountStatus, AccountUser, AddAccountUserRequest, BatchCheckMembershipsRequest,
    BillingRecipientKind::{self, Cc, To},
    CheckMembershipRequest, CheckMembershipResponse, Contact, ContactSlot, LinkOrganizationRequest,
    LinkedOrganization, ListAccountUsersRequest, ListAccountsRequest, ListBillingRecipientsRequest,
    ListLinkedOrganizationsRequest, ListPersonAccountsRequest,
    MembershipReason::{self, *},
    Person, PersonAccount, PersonKind, RemoveAccountUserRequest, SetPurchasingAccountRequest,
    TenantSettings, UnlinkOrganizationRequest, UpdateAccountUserRequest,
    google::r#type::Date,
};
use tonic::Status;

use crate::support::{
    Refused, Tenant, account, anybody,
    calls::{fields, later, mask, metadata, only, only_person, person, preconditions},
    refusal, refused,
};

impl Tenant {
    async fn try_add_user(&self, request: AddAccountUserRequest) -> Result<AccountUser, Status> {
        self.memberships()
            .add_account_user(request)
            .await
            .map(|response| response.into_inner().account_user.unwrap())
    }

    /// Adds a person to an account individually, with nothing set and without dates.
    pub async fn add_user(&self, account_id: &str, person_id: &str) -> AccountUser {
        self.try_add_user(add(account_id, person_id)).await.unwrap()
    }

    pub async fn update_user(
        &self,
        user: AccountUser,
        paths: &[&str],
    ) -> Result<AccountUser, Status> {
        let request = UpdateAccountUserRequest {
            account_user: Some(user),
            update_mask: mask(paths),
            ..Default::default()
        };
        self.memberships()
            .update_account_user(request)
            .await
            .map(|response| response.into_inner().account_user.unwrap())
    }

    /// Removes a user: what is left of them.
    pub async fn remove_user(
        &self,
        account_id: &str,
        person_id: &str,
        etag: &str,
    ) -> Result<Option<AccountUser>, Status> {
        let (account_id, person_id, etag) = (account_id.into(), person_id.into(), etag.into());
        let request =
            RemoveAccountUserRequest { account_id, person_id, etag, ..Default::default() };
        self.memberships()
            .remove_account_user(request)
            .await
            .map(|response| response.into_inner().account_user)
    }

    async fn list_users(&self, request: ListAccountUsersRequest) -> Vec<AccountUser> {
        self.memberships().list_account_users(request).await.unwrap().into_inner().account_users
    }

    /// The users of an account, whether in force or not.
    pub async fn users(&self, account_id: &str) -> Vec<AccountUser> {
        let account_id = account_id.into();
        self.list_users(ListAccountUsersRequest {
            account_id,
            show_not_in_force: true,
            ..Default::default()
        })
        .await
    }

    /// One of the users of an account.
    async fn user(&self, account_id: &str, person_id: &str) -> Option<AccountUser> {
        self.users(account_id).await.into_iter().find(|user| user.person_id == person_id)
    }

    pub async fn link(
        &self,
        account_id: &str,
        organization_id: &str,
        below: bool,
    ) -> Result<LinkedOrganization, Status> {
        let (account_id, organization_id) = (account_id.into(), organization_id.into());
        let request = LinkOrganizationRequest {
            account_id,
            organization_id,
            include_descendants: below,
            ..Default::default()
        };
        let response = self.memberships().link_organization(request).await?;
        Ok(response.into_inner().linked_organization.unwrap())
    }

    pub async fn unlink(&self, account_id: &str, organization_id: &str) -> Result<(), Status> {
        let (account_id, organization_id) = (account_id.into(), organization_id.into());
        let request =
            UnlinkOrganizationRequest { account_id, organization_id, ..Default::default() };
        self.memberships().unlink_organization(request).await.map(|_| ())
    }

    pub async fn links(&self, account_id: &str) -> Vec<LinkedOrganization> {
        let request =
            ListLinkedOrganizationsRequest { account_id: account_id.into(), ..Default::default() };
        self.memberships()
            .list_linked_organizations(request)
            .await
            .unwrap()
            .into_inner()
            .linked_organizations
    }

    /// The billing recipients of an account, with their kinds.
    async fn recipients(&self, account_id: &str) -> Vec<(String, BillingRecipientKind)> {
        let request =
            ListBillingRecipientsRequest { account_id: account_id.into(), ..Default::default() };
        let recipients = self
            .memberships()
            .list_billing_recipients(request)
            .await
            .unwrap()
            .into_inner()
            .recipients;
        recipients
            .into_iter()
            .map(|recipient| (recipient.person_id.clone(), recipient.kind()))
            .collect()
    }

    pub async fn buys_on(&self, person_id: &str, account_id: &str) -> Result<Person, Status> {
        let (person_id, account_id) = (person_id.into(), account_id.into());
        let request = SetPurchasingAccountRequest { person_id, account_id, ..Default::default() };
        self.memberships()
            .set_purchasing_account(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }

    pub async fn check(
        &self,
        account_id: &str,
        person_id: &str,
    ) -> Result<CheckMembershipResponse, Status> {
        self.memberships()
            .check_membership(pair(account_id, person_id))
            .await
            .map(tonic::Response::into_inner)
    }

    /// Why a person is a user of an account and may buy on it, or not.
    async fn reasons(&self, account_id: &str, person_id: &str) -> Vec<MembershipReason> {
        self.check(account_id, person_id).await.unwrap().reasons().collect()
    }

    pub async fn accounts_of(&self, person_id: &str) -> Vec<PersonAccount> {
        let request =
            ListPersonAccountsRequest { person_id: person_id.into(), ..Default::default() };
        self.memberships().list_person_accounts(request).await.unwrap().into_inner().accounts
    }

    /// An organization with these members.
    async fn company(&self, id: &str, parent_id: &str, members: &[&str]) {
        self.organization(id, parent_id).await;
        for person_id in members {
            if self.get_person(person_id).await.is_err() {
                self.person(person_id).await;
            }
            self.add_member(id, person_id).await.unwrap();
        }
    }
}

fn pair(account_id: &str, person_id: &str) -> CheckMembershipRequest {
    CheckMembershipRequest { account_id: account_id.into(), person_id: person_id.into() }
}

fn add(account_id: &str, person_id: &str) -> AddAccountUserRequest {
    AddAccountUserRequest {
        account_id: account_id.into(),
        person_id: person_id.into(),
        ..Default::default()
    }
}

/// A user with nothing but their ids.
fn the_user(account_id: &str, person_id: &str) -> AccountUser {
    AccountUser { account_id: account_id.into(), person_id: person_id.into(), ..Default::default() }
}

/// So many days from today, in UTC.
#[expect(clippy::unnecessary_wraps, reason = "every date of the contract is optional")]
fn day(offset: i64) -> Option<Date> {
    let today = Utc::now().date_naive();
    let days = Days::new(offset.unsigned_abs());
    let day = if offset < 0 { today - days } else { today + days };
    Some(Date {
        year: day.year(),
        month: day.month().try_into().unwrap(),
        day: day.day().try_into().unwrap(),
    })
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn ids(users: &[AccountUser]) -> Vec<&str> {
    users.iter().map(|user| &*user.person_id).collect()
}

fn billing(account_id: &str, person_id: &str) -> Account {
    Account { billing_contact_id: person_id.into(), ..only(account_id) }
}

/// The change is refused because of these slots, each named as `a/billing_contact`.
#[track_caller]
fn assert_held(answer: impl Refused, slots: &[&str], what: &str) {
    assert_eq!(refusal(&answer), "CONTACT_SLOT_HELD", "{what}");
    let subjects: Vec<_> = preconditions(&answer).into_iter().map(|(_, subject)| subject).collect();
    assert_eq!(
        subjects,
        slots.iter().map(|slot| format!("account/{slot}")).collect::<Vec<_>>(),
        "{what}"
    );
    assert_eq!(metadata(answer, "slots"), slots.len().to_string(), "{what}");
}

/// The account and the person that a change names whose etag is not the current one.
#[track_caller]
fn changed_since(answer: impl Refused) -> Vec<String> {
    assert_eq!(refusal(&answer), "ETAG_MISMATCH");
    let (_, details) = refused(answer);
    let info = details.error_info().unwrap();
    ["account_id", "person_id"].map(|field| info.metadata[field].clone()).to_vec()
}

#[tokio::test]
async fn users_added_through_an_organization_cannot_be_removed_here() {
    let tenant = Tenant::new().await;
    tenant.organization("vendor", "").await;
    tenant.account(account("a", "vendor")).await;
    tenant.company("acme", "", &["ann", "ben", "cat"]).await;
    tenant.link("a", "acme", false).await.unwrap();
    let users = tenant.users("a").await;
    assert_eq!(ids(&users), ["ann", "ben", "cat"]);
    for user in &users {
        assert_eq!(
            (user.individual, &user.organization_ids, user.removable),
            (false, &words(&["acme"]), false),
            "{user:?}"
        );
        assert!(
            user.in_force && user.create_time.is_none() && user.update_time.is_none(),
            "{user:?}"
        );
    }
    let answer = tenant.remove_user("a", "ben", "").await;
    assert_eq!(refusal(&answer), "USER_THROUGH_ORGANIZATION");
    let rule = ("USER_THROUGH_ORGANIZATION".to_owned(), "organization/acme".to_owned());
    assert_eq!(preconditions(&answer), [rule]);
    for (key, value) in [("account_id", "a"), ("person_id", "ben"), ("organizations", "1")] {
        assert_eq!(metadata(&answer, key), value);
    }
    let (status, details) = refused(answer);
    let advice = &details.precondition_failure().unwrap().violations[0].description;
    assert!(
        format!("{} {advice}", status.message()).contains("unlink"),
        "what to do: {} {advice}",
        status.message()
    );
    assert_eq!(tenant.users("a").await, users);
}

#[tokio::test]
async fn a_billing_contact_is_a_recipient_and_cannot_be_removed() {
    let tenant = Tenant::new().await;
    tenant.company("acme", "", &["ann"]).await;
    tenant.account(account("a", "acme")).await;
    tenant.person("dan").await;
    let added = tenant.add_user("a", "dan").await;
    assert!(added.individual && added.removable && added.organization_ids.is_empty(), "{added:?}");
    tenant.update(billing("a", "dan"), &[]).await.unwrap();
    assert_eq!(tenant.recipients("a").await, [("dan".to_owned(), To)]);
    let user = tenant.user("a", "dan").await.unwrap();
    assert_eq!(
        (user.removable, user.contact_slots().collect::<Vec<_>>()),
        (false, vec![ContactSlot::BillingContact])
    );
    let answer = tenant.remove_user("a", "dan", "").await;
    assert_held(answer.clone(), &["a/billing_contact"], "remove");
    let violation = refused(answer).1.precondition_failure().unwrap().violations[0].clone();
    assert!(violation.description.contains("dan"), "{violation:?}");
    assert_eq!(tenant.user("a", "dan").await.unwrap(), user);
    tenant.update(only("a"), &["billing_contact_id"]).await.unwrap();
    assert_eq!(tenant.remove_user("a", "dan", "").await.unwrap(), None);
    assert_eq!(tenant.user("a", "dan").await, None);
    assert!(tenant.recipients("a").await.is_empty());
}

#[tokio::test]
async fn who_buys_on_an_account_may_not_while_it_is_suspended() {
    let tenant = Tenant::new().await;
    tenant.company("acme", "", &["ann"]).await;
    tenant.account(account("a", "acme")).await;
    assert_eq!(tenant.buys_on("ann", "a").await.unwrap().purchasing_account_id, "a");
    let answer = tenant.check("a", "ann").await.unwrap();
    assert!(answer.is_user && answer.may_purchase && !answer.individual, "{answer:?}");
    assert_eq!(answer.organization_ids, ["acme"]);
    assert_eq!(answer.reasons().collect::<Vec<_>>(), [ThroughOrganization, PurchasingAccount]);
    for (status, more) in
        [(AccountStatus::Suspended, vec![AccountNotActive]), (AccountStatus::Active, vec![])]
    {
        tenant.update(Account { status: status.into(), ..only("a") }, &[]).await.unwrap();
        let answer = tenant.check("a", "ann").await.unwrap();
        assert_eq!((answer.is_user, answer.may_purchase), (true, more.is_empty()));
        assert_eq!(
            answer.reasons().collect::<Vec<_>>(),
            [vec![ThroughOrganization, PurchasingAccount], more].concat()
        );
    }
}

#[tokio::test]
async fn a_check_gives_every_reason_that_applies() {
    let tenant = Tenant::new().await;
    tenant.company("acme", "", &["ann"]).await;
    tenant.company("below", "acme", &["ben"]).await;
    tenant.company("deep", "below", &["ann"]).await;
    tenant.account(account("a", "acme")).await;
    for id in ["dan", "early", "late", "none"] {
        tenant.person(id).await;
    }
    tenant.add_user("a", "dan").await;
    tenant
        .try_add_user(AddAccountUserRequest { start_date: day(1), ..add("a", "early") })
        .await
        .unwrap();
    tenant
        .try_add_user(AddAccountUserRequest { end_date: day(-1), ..add("a", "late") })
        .await
        .unwrap();
    let plain = NotPurchasingAccount;
    for (id, expected) in [
        ("ann", vec![ThroughOrganization, plain]),
        ("ben", vec![NotAUser, plain]),
        ("dan", vec![Individual, plain]),
        ("early", vec![NotStarted, plain]),
        ("late", vec![Ended, plain]),
        ("none", vec![NotAUser, plain]),
    ] {
        assert_eq!(tenant.reasons("a", id).await, expected, "{id}");
        let answer = tenant.check("a", id).await.unwrap();
        assert_eq!(answer.is_user, matches!(expected[0], Individual | ThroughOrganization), "{id}");
        assert!(!answer.may_purchase, "{id}");
        assert_eq!(answer.individual, id == "dan", "{id}");
    }
    tenant.link("a", "acme", true).await.unwrap();
    assert_eq!(tenant.check("a", "ann").await.unwrap().organization_ids, ["acme", "deep"]);
    assert_eq!(tenant.check("a", "ben").await.unwrap().organization_ids, ["below"]);
    tenant.add_member("below", "late").await.unwrap();
    assert_eq!(tenant.reasons("a", "late").await, [ThroughOrganization, Ended, plain]);
    tenant.add_member("below", "dan").await.unwrap();
    tenant.buys_on("dan", "a").await.unwrap();
    assert_eq!(
        tenant.reasons("a", "dan").await,
        [Individual, ThroughOrganization, PurchasingAccount]
    );
    tenant.update_person(only_person("dan"), &["active"]).await.unwrap();
    let answer = tenant.check("a", "dan").await.unwrap();
    assert_eq!(answer.reasons().collect::<Vec<_>>(), [PersonInactive, PurchasingAccount]);
    assert!(
        !answer.is_user
            && !answer.may_purchase
            && !answer.individual
            && answer.organization_ids.is_empty(),
        "{answer:?}"
    );
    tenant
        .update(Account { status: AccountStatus::Inactive.into(), ..only("a") }, &[])
        .await
        .unwrap();
    assert_eq!(
        tenant.reasons("a", "dan").await,
        [PersonInactive, PurchasingAccount, AccountNotActive]
    );
    assert_eq!(tenant.reasons("a", "none").await, [NotAUser, plain, AccountNotActive]);
}

#[tokio::test]
async fn a_membership_includes_its_first_and_its_last_day() {
    let tenant = Tenant::new().await;
    tenant.company("acme", "", &[]).await;
    tenant.account(account("a", "acme")).await;
    tenant.person("dan").await;
    tenant
        .try_add_user(AddAccountUserRequest {
            start_date: day(0),
            end_date: day(0),
            ..add("a", "dan")
        })
        .await
        .unwrap();
    assert!(tenant.check("a", "dan").await.unwrap().is_user);
    assert!(tenant.user("a", "dan").await.unwrap().in_force);
}

#[tokio::test]
async fn many_checks_are_answered_in_their_order_or_none() {
    let tenant = Tenant::new().await;
    tenant.company("acme", "", &["ann"]).await;
    tenant.account(account("a", "acme")).await;
    tenant.account(account("b", "acme")).await;
    tenant.person("dan").await;
    tenant.add_user("b", "dan").await;
    let batch = async |requests: Vec<CheckMembershipRequest>| {
        let response = tenant
            .memberships()
            .batch_check_memberships(BatchCheckMembershipsRequest { requests })
            .await;
        response.map(|response| response.into_inner().responses)
    };
    let pairs = vec![pair("b", "dan"), pair("a", "ann"), pair("a", "dan"), pair("b", "dan")];
    let answers = batch(pairs.clone()).await.unwrap();
    assert_eq!(
        answers.iter().map(|answer| answer.is_user).collect::<Vec<_>>(),
        [true, true, false, true]
    );
    for (asked, answer) in pairs.iter().zip(&answers) {
        assert_eq!(*answer, tenant.check(&asked.account_id, &asked.person_id).await.unwrap());
    }
    for (unknown, why) in [
        (pair("nothing", "ann"), "ACCOUNT_NOT_FOUND"),
        (pair("a", "nobody"), "PERSON_NOT_FOUND"),
        (pair("nothing", "nobody"), "ACCOUNT_NOT_FOUND"),
    ] {
        let alone = tenant.check(&unknown.account_id, &unknown.person_id).await;
        assert_eq!(refusal(alone), why, "{unknown:?}");
        assert_eq!(refusal(batch(vec![pair("a", "ann"), unknown]).await), why);
    }
    assert_eq!(fields(batch(Vec::new()).await), ["requests"]);
    assert_eq!(fields(batch(vec![pair("a", "ann"); 1001]).await), ["requests"]);
    assert_eq!(
        fields(batch(vec![pair("a", "ann"), pair("", "")]).await),
        ["requests[1].account_id", "requests[1].person_id"]
    );
    assert_eq!(batch(vec![pair("a", "ann"); 1000]).await.unwrap().len(), 1000);
}

/// One way to end what makes `ann` a user of account `a`, and another source of membership for her.
///
/// Every way is refused as long as she is the contact, by the same error, and allowed once there is
/// another source.
async fn assert_no_way_around(
    tenant: &Tenant,
    what: &str,
    way: impl AsyncFn() -> Result<(), Status>,
    other: impl AsyncFn(),
) {
    tenant.update(billing("a", "ann"), &[]).await.unwrap();
    let before = (
        tenant.get("a").await.unwrap(),
        tenant.users("a").await,
        tenant.links("a").await,
        tenant.get_person("ann").await,
    );
    let trail = tenant.trail().await.len();
    assert_held(way().await, &["a/billing_contact"], what);
    let after = (
        tenant.get("a").await.unwrap(),
        tenant.users("a").await,
        tenant.links("a").await,
        tenant.get_person("ann").await,
    );
    assert_eq!(format!("{after:?}"), format!("{before:?}"), "{what}: refused, so nothing changed");
    assert_eq!(tenant.trail().await.len(), trail, "{what}");
    other().await;
    way().await.unwrap_or_else(|status| panic!("{what}: allowed with another source: {status:?}"));
    let user = tenant.user("a", "ann").await.unwrap_or_else(|| panic!("{what}: still a user"));
    assert!(user.in_force, "{what}: {user:?}");
    assert_eq!(user.contact_slots().collect::<Vec<_>>(), [ContactSlot::BillingContact], "{what}");
}

/// `ann`, a member of nothing, and account `a` of a vendor without members.
async fn vendor() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.organization("vendor", "").await;
    tenant.account(account("a", "vendor")).await;
    tenant.person("ann").await;
    tenant
}

#[tokio::test]
async fn a_contact_stays_a_user_when_removed_individually() {
    let tenant = &vendor().await;
    tenant.add_user("a", "ann").await;
    let way = async || tenant.remove_user("a", "ann", "").await.map(|_| ());
    let other = async || drop(tenant.add_member("vendor", "ann").await.unwrap());
    assert_no_way_around(tenant, "remove the user", way, other).await;
}

#[tokio::test]
async fn a_contact_added_individually_gets_no_end_and_no_later_start() {
    for (path, offset) in [("end_date", 30), ("end_date", -1), ("start_date", 1)] {
        let tenant = &vendor().await;
        tenant.add_user("a", "ann").await;
        let way = async || {
            let dates = AccountUser {
                start_date: day(offset),
                end_date: day(offset),
                ..the_user("a", "ann")
            };
            tenant.update_user(dates, &[path]).await.map(|_| ())
        };
        let other = async || drop(tenant.add_member("vendor", "ann").await.unwrap());
        assert_no_way_around(tenant, path, way, other).await;
    }
}

#[tokio::test]
async fn a_contact_stays_a_user_when_an_organization_is_unlinked() {
    let tenant = &vendor().await;
    tenant.organization("acme", "").await;
    tenant.add_member("acme", "ann").await.unwrap();
    tenant.link("a", "acme", false).await.unwrap();
    let way = async || tenant.unlink("a", "acme").await;
    let other = async || drop(tenant.add_user("a", "ann").await);
    assert_no_way_around(tenant, "unlink", way, other).await;
}

#[tokio::test]
async fn a_contact_stays_a_user_when_descendants_are_no_longer_included() {
    for own in [false, true] {
        let tenant = &vendor().await;
        let linked = if own { "vendor" } else { "acme" };
        if !own {
            tenant.organization("acme", "").await;
        }
        tenant.organization("below", linked).await;
        tenant.organization("deep", "below").await;
        tenant.add_member("deep", "ann").await.unwrap();
        tenant.link("a", linked, true).await.unwrap();
        let way = async || tenant.link("a", linked, false).await.map(|_| ());
        let other = async || drop(tenant.link("a", "deep", false).await.unwrap());
        assert_no_way_around(tenant, "without descendants", way, other).await;
    }
}

#[tokio::test]
async fn a_contact_stays_a_user_when_taken_out_of_an_organization() {
    let tenant = &vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let way = async || tenant.remove_member("vendor", "ann").await;
    let other = async || drop(tenant.add_user("a", "ann").await);
    assert_no_way_around(tenant, "remove the member", way, other).await;
}

#[tokio::test]
async fn a_contact_stays_a_user_when_an_organization_moves() {
    let tenant = &vendor().await;
    tenant.organization("below", "vendor").await;
    tenant.organization("deep", "below").await;
    tenant.add_member("deep", "ann").await.unwrap();
    tenant.link("a", "vendor", true).await.unwrap();
    let way = async || tenant.move_organization("below", "").await.map(|_| ());
    let other = async || drop(tenant.add_user("a", "ann").await);
    assert_no_way_around(tenant, "move", way, other).await;
}

#[tokio::test]
async fn a_contact_stays_a_user_when_an_organization_is_deleted() {
    let tenant = &vendor().await;
    tenant.organization("below", "vendor").await;
    tenant.add_member("below", "ann").await.unwrap();
    tenant.link("a", "vendor", true).await.unwrap();
    let way = async || tenant.delete_organization("below", "").await;
    let other = async || drop(tenant.add_user("a", "ann").await);
    assert_no_way_around(tenant, "delete the organization", way, other).await;
}

#[tokio::test]
async fn a_contact_stays_a_user_when_the_account_changes_its_organization() {
    let tenant = &vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    tenant.organization("acme", "").await;
    let way = async || {
        tenant
            .update(Account { organization_id: "acme".into(), ..only("a") }, &[])
            .await
            .map(|_| ())
    };
    let other = async || drop(tenant.add_member("acme", "ann").await.unwrap());
    assert_no_way_around(tenant, "another organization", way, other).await;
}

#[tokio::test]
async fn a_contact_stays_an_active_person_of_a_customer() {
    let tenant = &vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    tenant.account(account("b", "vendor")).await;
    tenant
        .update(Account { cc_billing_contact_id: "ann".into(), ..billing("a", "ann") }, &[])
        .await
        .unwrap();
    let contact = Contact { person_id: "ann".into(), ..Default::default() };
    tenant.update(Account { primary_contact: Some(contact), ..only("b") }, &[]).await.unwrap();
    let slots = ["a/billing_contact", "a/cc_billing_contact", "b/primary_contact"];
    let before = tenant.get_person("ann").await.unwrap();
    let to_staff = || Person { kind: PersonKind::Staff.into(), ..only_person("ann") };
    assert_held(tenant.delete_person("ann", "").await, &slots, "delete");
    assert_held(tenant.update_person(only_person("ann"), &["active"]).await, &slots, "deactivate");
    assert_held(tenant.update_person(to_staff(), &["kind"]).await, &slots, "become staff");
    assert_eq!(tenant.get_person("ann").await.unwrap(), before);
    tenant.update(only("a"), &["billing_contact_id", "cc_billing_contact_id"]).await.unwrap();
    assert_held(tenant.delete_person("ann", "").await, &slots[2..], "delete");
    tenant
        .update(Account { primary_contact: anybody(), ..only("b") }, &["primary_contact"])
        .await
        .unwrap();
    tenant.update_person(to_staff(), &["kind"]).await.unwrap();
    tenant.update_person(only_person("ann"), &["active"]).await.unwrap();
    tenant.delete_person("ann", "").await.unwrap();
}

#[tokio::test]
async fn an_error_names_twenty_slots_and_counts_all() {
    let tenant = vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    for i in 10..32 {
        let id = format!("a{i}");
        tenant
            .account(Account { billing_contact_id: "ann".into(), ..account(&id, "vendor") })
            .await;
    }
    let answer = tenant.remove_member("vendor", "ann").await;
    assert_eq!(refusal(&answer), "CONTACT_SLOT_HELD");
    assert_eq!(metadata(&answer, "slots"), "22");
    let named = preconditions(answer);
    assert_eq!(named.len(), 20);
    assert_eq!(named[19].1, "account/a29/billing_contact");
}

#[tokio::test]
async fn a_contact_is_an_active_customer_who_is_a_user_without_end() {
    let tenant = vendor().await;
    for id in ["away", "until", "early", "late", "gone"] {
        tenant.person(id).await;
    }
    tenant.staff("sam").await;
    tenant.add_user("a", "sam").await;
    tenant.add_user("a", "gone").await;
    tenant.update_person(only_person("gone"), &["active"]).await.unwrap();
    for (id, start_date, end_date) in
        [("until", None, day(9)), ("early", day(1), None), ("late", None, day(-1))]
    {
        tenant
            .try_add_user(AddAccountUserRequest { start_date, end_date, ..add("a", id) })
            .await
            .unwrap();
    }
    let before = tenant.get("a").await.unwrap();
    for (id, why) in [
        ("nobody", "PERSON_NOT_FOUND"),
        ("away", "NOT_AN_ACCOUNT_USER"),
        ("early", "NOT_AN_ACCOUNT_USER"),
        ("late", "NOT_AN_ACCOUNT_USER"),
        ("until", "CONTACT_MEMBERSHIP_ENDS"),
        ("gone", "PERSON_INACTIVE"),
        ("sam", "PERSON_NOT_CUSTOMER"),
    ] {
        let contact = Contact { person_id: id.into(), ..Default::default() };
        for account in [
            billing("a", id),
            Account { cc_billing_contact_id: id.into(), ..only("a") },
            Account { primary_contact: Some(contact), ..only("a") },
        ] {
            let answer = tenant.update(account, &[]).await;
            assert_eq!(refusal(&answer), why, "{id}");
            assert_eq!(metadata(&answer, "person_id"), id);
            if ["NOT_AN_ACCOUNT_USER", "CONTACT_MEMBERSHIP_ENDS"].contains(&why) {
                assert_eq!(metadata(&answer, "account_id"), "a", "{id}");
                assert_eq!(preconditions(answer), [(why.to_owned(), "account/a".to_owned())]);
            }
        }
    }
    assert_eq!(tenant.get("a").await.unwrap(), before);
    tenant.update_user(the_user("a", "until"), &["end_date"]).await.unwrap();
    tenant.update(billing("a", "until"), &[]).await.expect("without an end now");
    tenant.add_member("vendor", "late").await.unwrap();
    tenant.update(billing("a", "late"), &[]).await.expect("covered by the organization now");
    let new = Account { billing_contact_id: "late".into(), ..account("b", "vendor") };
    assert_eq!(
        tenant.try_account(new).await.unwrap().billing_contact_id,
        "late",
        "a user as soon as it is created"
    );
}

#[tokio::test]
async fn a_primary_contact_by_person_is_shown_as_they_are_now() {
    let tenant = vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let jane = Person {
        display_name: "Jane Döe".into(),
        email: "jane@acme.example".into(),
        ..only_person("ann")
    };
    tenant.update_person(Person { phone: "+1 555".into(), ..jane }, &[]).await.unwrap();
    let sent = Contact {
        person_id: "ann".into(),
        name: "ignored".into(),
        email: "x".into(),
        phone: String::new(),
    };
    let account =
        tenant.update(Account { primary_contact: Some(sent), ..only("a") }, &[]).await.unwrap();
    let shown = |name: &str, email: &str| {
        Some(Contact {
            person_id: "ann".into(),
            name: name.into(),
            email: email.into(),
            phone: "+1 555".into(),
        })
    };
    assert_eq!(account.primary_contact, shown("Jane Döe", "jane@acme.example"));
    let found = async |query: &str| {
        tenant.list(ListAccountsRequest { query: query.into(), ..Default::default() }).await
    };
    assert_eq!(found("doe jan").await, ["a"]);
    assert!(found("ignored").await.is_empty());
    let renamed = Person {
        display_name: "Joan Roe".into(),
        email: "joan@roe.example".into(),
        ..only_person("ann")
    };
    tenant.update_person(renamed, &[]).await.unwrap();
    let now = tenant.get("a").await.unwrap();
    assert_eq!(now.primary_contact, shown("Joan Roe", "joan@roe.example"));
    assert_eq!(
        (&now.etag, now.update_time),
        (&account.etag, account.update_time),
        "the account has not changed"
    );
    assert_eq!(found("joan@roe").await, ["a"]);
    assert!(found("doe").await.is_empty(), "not by the old name");
    tenant.update(Account { description: "other".into(), ..only("a") }, &[]).await.unwrap();
    assert_eq!(found("roe").await, ["a"]);
    let inline =
        Contact { name: "Max".into(), email: "max@x.example".into(), ..Default::default() };
    let account = tenant
        .update(Account { primary_contact: Some(inline.clone()), ..only("a") }, &[])
        .await
        .unwrap();
    assert_eq!(account.primary_contact, Some(inline));
    assert!(found("roe").await.is_empty());
    assert_eq!(found("max").await, ["a"]);
    tenant.delete_person("ann", "").await.expect("no contact any more");
}

#[tokio::test]
async fn roles_are_kept_once_each_in_alphabetical_order() {
    let tenant = vendor().await;
    let roles = |list: &[&str]| AddAccountUserRequest { roles: words(list), ..add("a", "ann") };
    let answer = tenant.try_add_user(roles(&["owner", "admin", "buyer", "own"])).await;
    assert_eq!(fields(answer), ["roles[1]", "roles[3]"]);
    let user = tenant.try_add_user(roles(&["owner", "BUYER", "Owner", "member"])).await.unwrap();
    assert_eq!(user.roles, ["buyer", "member", "owner"]);
    let set = |list: &[&str]| AccountUser { roles: words(list), ..the_user("a", "ann") };
    let same = tenant.update_user(set(&["owner", "member", "buyer", "buyer"]), &[]).await.unwrap();
    assert_eq!(same, user, "the same roles are no change");
    let fewer = tenant.update_user(set(&["member", "member"]), &[]).await.unwrap();
    assert_eq!(fewer.roles, ["member"], "replaced as a whole");
    assert!(
        fewer.etag != user.etag
            && fewer.create_time == user.create_time
            && later(fewer.update_time, user.update_time)
    );
    assert_eq!(
        fields(tenant.update_user(set(&["boss"]), &["roles"]).await),
        ["account_user.roles[0]"]
    );
    assert_eq!(tenant.update_user(set(&[]), &["roles"]).await.unwrap().roles, words(&[]));
}

#[tokio::test]
async fn a_person_is_added_individually_once() {
    let tenant = vendor().await;
    tenant
        .try_add_user(AddAccountUserRequest { end_date: day(-1), ..add("a", "ann") })
        .await
        .unwrap();
    let answer = tenant.try_add_user(add("a", "ann")).await;
    assert_eq!(refusal(&answer), "ACCOUNT_USER_ALREADY_EXISTS", "whatever the dates");
    assert_eq!(
        (metadata(&answer, "account_id"), metadata(&answer, "person_id")),
        ("a".into(), "ann".into())
    );
    assert_eq!(refused(answer).1.resource_info().unwrap().resource_name, "ann");
    tenant.person("gone").await;
    tenant.update_person(only_person("gone"), &["active"]).await.unwrap();
    for (account_id, person_id, why) in [
        ("b", "ann", "ACCOUNT_NOT_FOUND"),
        ("a", "nobody", "PERSON_NOT_FOUND"),
        ("a", "gone", "PERSON_INACTIVE"),
    ] {
        assert_eq!(refusal(tenant.try_add_user(add(account_id, person_id)).await), why);
    }
    assert_eq!(fields(tenant.try_add_user(add("", "")).await), ["account_id", "person_id"]);
}

#[tokio::test]
async fn the_dates_of_a_membership_are_full_dates_in_their_order() {
    let tenant = vendor().await;
    let dates =
        |start_date, end_date| AddAccountUserRequest { start_date, end_date, ..add("a", "ann") };
    let date = |year, month, day| Some(Date { year, month, day });
    assert_eq!(fields(tenant.try_add_user(dates(day(2), day(1))).await), ["end_date"]);
    for partial in [
        date(2026, 2, 0),
        date(2026, 0, 0),
        date(0, 2, 3),
        date(2026, 2, 29),
        date(2026, 13, 1),
        date(10_000, 1, 1),
        date(2026, -1, 1),
    ] {
        assert_eq!(
            fields(tenant.try_add_user(dates(partial, partial)).await),
            ["start_date", "end_date"],
            "{partial:?}"
        );
    }
    let user = tenant.try_add_user(dates(date(2024, 2, 29), date(9999, 12, 31))).await.unwrap();
    assert_eq!(
        (user.start_date, user.end_date, user.in_force),
        (date(2024, 2, 29), date(9999, 12, 31), true)
    );
    assert_eq!(tenant.user("a", "ann").await.unwrap(), user);
    let change =
        |start_date, end_date| AccountUser { start_date, end_date, ..the_user("a", "ann") };
    let answer = tenant.update_user(change(None, date(2024, 2, 28)), &[]).await;
    assert_eq!(fields(answer), ["account_user.end_date"], "before the start that is kept");
    let ended = tenant.update_user(change(None, day(-1)), &[]).await.unwrap();
    assert_eq!(
        (ended.start_date, ended.end_date, ended.in_force),
        (date(2024, 2, 29), day(-1), false)
    );
    assert_eq!(
        fields(tenant.update_user(change(None, None), &["end_date.year"]).await).len(),
        1,
        "dates change as a whole"
    );
    let open = tenant.update_user(change(None, None), &["start_date", "end_date"]).await.unwrap();
    assert_eq!((open.start_date, open.end_date, open.in_force), (None, None, true));
}

#[tokio::test]
async fn what_is_set_for_a_user_through_an_organization_is_no_membership() {
    let tenant = vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let none = tenant.user("a", "ann").await.unwrap();
    for paths in [&[][..], &["roles", "billing", "start_date", "end_date"], &["*"]] {
        let same = tenant.update_user(the_user("a", "ann"), paths).await.unwrap();
        assert_eq!(same, none, "{paths:?}: nothing is set, so nothing happens");
    }
    let set = AccountUser {
        billing: true,
        roles: words(&["owner"]),
        etag: none.etag.clone(),
        ..the_user("a", "ann")
    };
    let user = tenant.update_user(set.clone(), &[]).await.unwrap();
    assert_eq!((user.individual, user.billing, user.removable), (false, true, false));
    assert!(
        user.create_time.is_some()
            && user.create_time == user.update_time
            && user.etag != none.etag,
        "{user:?}"
    );
    assert_eq!(tenant.recipients("a").await, [("ann".to_owned(), To)]);
    let answer = tenant.update_user(set, &[]).await;
    assert_eq!(changed_since(answer), words(&["a", "ann"]));
    let dated = AccountUser { start_date: day(0), end_date: day(1), ..the_user("a", "ann") };
    assert_eq!(
        fields(tenant.update_user(dated, &[]).await),
        ["account_user.start_date", "account_user.end_date"]
    );
    let all = tenant.update_user(the_user("a", "ann"), &["*"]).await.unwrap();
    assert_eq!((all.roles.clone(), all.billing), (Vec::new(), false), "those left out are emptied");
    let paths = [
        "account_id",
        "person_id",
        "display_name",
        "individual",
        "organization_ids",
        "removable",
        "in_force",
        "etag",
    ];
    let same = tenant.update_user(all.clone(), &paths).await.unwrap();
    assert_eq!(same, all, "what is sent back as it is changes nothing");
    assert_eq!(
        refusal(tenant.update_user(the_user("a", "nobody"), &[]).await),
        "ACCOUNT_USER_NOT_FOUND"
    );
    assert_eq!(refusal(tenant.update_user(the_user("b", "ann"), &[]).await), "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn who_is_a_user_in_two_ways_stays_one_through_the_organization() {
    let tenant = vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let set = AccountUser { billing: true, roles: words(&["owner"]), ..the_user("a", "ann") };
    tenant.update_user(set, &[]).await.unwrap();
    let both = tenant
        .try_add_user(AddAccountUserRequest { end_date: day(9), ..add("a", "ann") })
        .await
        .unwrap();
    assert_eq!((both.individual, both.removable, both.billing), (true, true, true), "{both:?}");
    assert_eq!(
        (&both.roles, &both.organization_ids),
        (&words(&["owner"]), &words(&["vendor"])),
        "what was set stays"
    );
    tenant
        .update(billing("a", "ann"), &[])
        .await
        .expect("covered, so the end date does not matter");
    assert_eq!(changed_since(tenant.remove_user("a", "ann", "other").await), words(&["a", "ann"]));
    let left = tenant
        .remove_user("a", "ann", &both.etag)
        .await
        .unwrap()
        .expect("a user through the organization");
    assert_eq!(
        (left.individual, left.removable, left.billing, left.end_date),
        (false, false, true, None),
        "{left:?}"
    );
    assert_eq!(left.roles, ["owner"]);
    assert_eq!(tenant.user("a", "ann").await.unwrap(), left);
    assert_eq!(refusal(tenant.remove_user("a", "ann", "").await), "USER_THROUGH_ORGANIZATION");
    let again = tenant
        .try_add_user(AddAccountUserRequest { roles: words(&["buyer"]), ..add("a", "ann") })
        .await
        .unwrap();
    assert_eq!(
        (again.roles, again.billing),
        (words(&["buyer"]), true),
        "replaced if others are given"
    );
}

#[tokio::test]
async fn roles_and_the_billing_flag_go_with_the_last_source() {
    let tenant = &vendor().await;
    tenant.organization("acme", "").await;
    tenant.organization("top", "").await;
    let none = async |what: &str| {
        assert_eq!(tenant.user("a", "ann").await, None, "{what}");
        assert!(tenant.recipients("a").await.is_empty(), "{what}");
    };
    // Is a user again, by the way given, and has nothing; then something is set.
    let back = async |what: &str| {
        let user = tenant.user("a", "ann").await.unwrap_or_else(|| panic!("{what}: a user"));
        assert_eq!((user.roles.len(), user.billing, user.create_time), (0, false, None), "{what}");
        let set = AccountUser { billing: true, roles: words(&["owner"]), ..the_user("a", "ann") };
        tenant.update_user(set, &[]).await.unwrap();
    };
    tenant.add_member("acme", "ann").await.unwrap();
    for what in ["unlink", "unlink again"] {
        tenant.link("a", "acme", false).await.unwrap();
        back(what).await;
        tenant.unlink("a", "acme").await.unwrap();
        none(what).await;
    }
    tenant.link("a", "acme", false).await.unwrap();
    back("remove the member").await;
    tenant.remove_member("acme", "ann").await.unwrap();
    none("remove the member").await;
    tenant.add_member("acme", "ann").await.unwrap();
    back("another source remains").await;
    tenant.add_user("a", "ann").await;
    tenant.unlink("a", "acme").await.unwrap();
    let kept = tenant.user("a", "ann").await.unwrap();
    assert_eq!(
        (kept.roles, kept.billing),
        (words(&["owner"]), true),
        "an individual user keeps them"
    );
    assert_eq!(tenant.remove_user("a", "ann", "").await.unwrap(), None);
    none("remove the user").await;
    tenant.link("a", "top", true).await.unwrap();
    tenant.move_organization("acme", "top").await.unwrap();
    back("move").await;
    tenant.move_organization("acme", "").await.unwrap();
    none("move").await;
    tenant.move_organization("acme", "top").await.unwrap();
    back("without descendants").await;
    tenant.link("a", "top", false).await.unwrap();
    none("without descendants").await;
    tenant.link("a", "top", true).await.unwrap();
    back("delete the organization").await;
    tenant.delete_organization("acme", "").await.unwrap();
    none("delete the organization").await;
    tenant.add_member("vendor", "ann").await.unwrap();
    back("the account's organization").await;
    tenant.update(Account { organization_id: "top".into(), ..only("a") }, &[]).await.unwrap();
    none("the account's organization").await;
    tenant.update(Account { organization_id: "vendor".into(), ..only("a") }, &[]).await.unwrap();
    back("and back").await;
}

#[tokio::test]
async fn changes_of_dates_alone_keep_what_is_set() {
    let tenant = vendor().await;
    let ended = AddAccountUserRequest {
        end_date: day(-1),
        billing: true,
        roles: words(&["buyer"]),
        ..add("a", "ann")
    };
    tenant.try_add_user(ended).await.unwrap();
    assert!(tenant.recipients("a").await.is_empty(), "no user today");
    tenant.update_user(the_user("a", "ann"), &["end_date"]).await.unwrap();
    assert_eq!(tenant.recipients("a").await, [("ann".to_owned(), To)]);
    assert_eq!(tenant.user("a", "ann").await.unwrap().roles, ["buyer"]);
}

#[tokio::test]
async fn the_own_organization_is_always_linked() {
    let tenant = vendor().await;
    tenant.organization("acme", "").await;
    tenant.add_member("acme", "ann").await.unwrap();
    let own = tenant.links("a").await;
    let expected = LinkedOrganization {
        account_id: "a".into(),
        organization_id: "vendor".into(),
        display_name: "vendor".into(),
        own: true,
        ..Default::default()
    };
    assert_eq!(own, std::slice::from_ref(&expected));
    let answer = tenant.unlink("a", "vendor").await;
    assert_eq!(refusal(&answer), "OWN_ORGANIZATION_LINKED");
    assert_eq!(
        (metadata(&answer, "account_id"), metadata(answer, "organization_id")),
        ("a".into(), "vendor".into())
    );
    assert_eq!(tenant.link("a", "vendor", false).await.unwrap(), expected, "as it is");
    let wide = tenant.link("a", "vendor", true).await.unwrap();
    assert!(
        wide.own
            && wide.include_descendants
            && wide.create_time.is_some()
            && wide.update_time.is_some(),
        "{wide:?}"
    );
    let narrow = tenant.link("a", "vendor", false).await.unwrap();
    assert!(
        narrow.create_time.is_some() && later(narrow.update_time, wide.update_time),
        "set once: {narrow:?}"
    );
    let linked = tenant.link("a", "acme", true).await.unwrap();
    assert!(
        !linked.own && linked.include_descendants && linked.create_time.is_some(),
        "{linked:?}"
    );
    tenant.update(Account { organization_id: "acme".into(), ..only("a") }, &[]).await.unwrap();
    let links = tenant.links("a").await;
    assert_eq!(links.len(), 1, "the link of the old one ends: {links:?}");
    assert_eq!(
        links[0],
        LinkedOrganization { own: true, ..linked },
        "the new one keeps the extent of its link"
    );
}

#[tokio::test]
async fn an_organization_is_linked_once_and_to_its_latest_extent() {
    let tenant = vendor().await;
    tenant.company("acme", "", &["ann"]).await;
    tenant.company("below", "acme", &["ben"]).await;
    let linked = tenant.link("a", "acme", false).await.unwrap();
    assert_eq!(linked.create_time, linked.update_time);
    let trail = tenant.trail().await.len();
    assert_eq!(tenant.link("a", "acme", false).await.unwrap(), linked, "linked again as it is");
    assert_eq!(tenant.trail().await.len(), trail, "nothing happened");
    let wide = tenant.link("a", "acme", true).await.unwrap();
    assert!(
        wide.create_time == linked.create_time && later(wide.update_time, linked.update_time),
        "{wide:?}"
    );
    assert_eq!(ids(&tenant.users("a").await), ["ann", "ben"]);
    tenant.company("later", "below", &["cat"]).await;
    assert_eq!(ids(&tenant.users("a").await), ["ann", "ben", "cat"], "also of those added later");
    tenant.unlink("a", "acme").await.unwrap();
    assert!(tenant.users("a").await.is_empty());
    let answer = tenant.unlink("a", "acme").await;
    assert_eq!(refusal(&answer), "ORGANIZATION_NOT_LINKED");
    assert_eq!(refused(answer).1.resource_info().unwrap().resource_name, "acme");
    for (account_id, organization_id, linking, unlinking) in [
        ("b", "acme", "ACCOUNT_NOT_FOUND", "ACCOUNT_NOT_FOUND"),
        ("a", "none", "ORGANIZATION_NOT_FOUND", "ORGANIZATION_NOT_LINKED"),
    ] {
        assert_eq!(refusal(tenant.link(account_id, organization_id, true).await), linking);
        assert_eq!(refusal(tenant.unlink(account_id, organization_id).await), unlinking);
    }
    assert_eq!(fields(tenant.link("", "", true).await), ["account_id", "organization_id"]);
}

#[tokio::test]
async fn a_linked_organization_is_not_deleted() {
    let tenant = vendor().await;
    tenant.organization("acme", "").await;
    tenant.account(account("b", "vendor")).await;
    tenant.link("a", "acme", false).await.unwrap();
    tenant.link("b", "acme", true).await.unwrap();
    let answer = tenant.delete_organization("acme", "").await;
    assert_eq!(refusal(&answer), "ORGANIZATION_NOT_EMPTY");
    let counts = ["children", "accounts", "links"].map(|key| metadata(&answer, key));
    assert_eq!(counts, ["0", "0", "2"]);
    assert_eq!(preconditions(answer).len(), 1);
    let own = tenant.delete_organization("vendor", "").await;
    assert_eq!(
        ["accounts", "links"].map(|key| metadata(&own, key)),
        ["2", "0"],
        "links to its own accounts do not count"
    );
    tenant.unlink("a", "acme").await.unwrap();
    tenant.delete("b", "").await.expect("an account is deleted with its links");
    tenant.delete_organization("acme", "").await.unwrap();
}

#[tokio::test]
async fn users_are_listed_once_each_searched_and_page_by_page() {
    let tenant = vendor().await;
    tenant.company("acme", "", &["u1", "u3", "u5"]).await;
    tenant.company("below", "acme", &["u3", "u4"]).await;
    tenant.link("a", "acme", true).await.unwrap();
    for id in ["u2", "u6", "u7"] {
        tenant.person(id).await;
    }
    for id in ["u2", "u3"] {
        tenant.add_user("a", id).await;
    }
    tenant
        .try_add_user(AddAccountUserRequest { end_date: day(-1), ..add("a", "u6") })
        .await
        .unwrap();
    tenant
        .try_add_user(AddAccountUserRequest { start_date: day(1), ..add("a", "u7") })
        .await
        .unwrap();
    tenant.update_person(only_person("u5"), &["active"]).await.unwrap();
    let of_a = || ListAccountUsersRequest { account_id: "a".into(), ..Default::default() };
    assert_eq!(ids(&tenant.list_users(of_a()).await), ["u1", "u2", "u3", "u4"]);
    let all = tenant.users("a").await;
    assert_eq!(ids(&all), ["u1", "u2", "u3", "u4", "u5", "u6", "u7"]);
    for user in &all {
        assert_eq!(user.in_force, &*user.person_id < "u5", "{user:?}");
        assert_eq!(
            user.in_force,
            tenant.check("a", &user.person_id).await.unwrap().is_user,
            "{user:?}"
        );
    }
    assert_eq!((all[2].individual, &all[2].organization_ids), (true, &words(&["acme", "below"])));
    tenant
        .update_person(Person { email: "lee@acme.example".into(), ..only_person("u3") }, &[])
        .await
        .unwrap();
    tenant.try_person(Person { email: "lee@other.example".into(), ..person("u9") }).await.unwrap();
    let found = async |query: &str| {
        let users =
            tenant.list_users(ListAccountUsersRequest { query: query.into(), ..of_a() }).await;
        users.into_iter().map(|user| user.person_id).collect::<Vec<_>>()
    };
    assert_eq!(found("LEE u3").await, ["u3"]);
    assert_eq!(found("lee").await, ["u3"], "only users of the account");
    assert!(found("u6").await.is_empty());
    for show_not_in_force in [false, true] {
        let (mut seen, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListAccountUsersRequest {
                page_size: 2,
                page_token,
                order_by: 2,
                show_not_in_force,
                ..of_a()
            };
            let page = tenant.memberships().list_account_users(request).await.unwrap().into_inner();
            assert!(page.account_users.len() <= 2);
            seen.extend(page.account_users.into_iter().map(|user| user.person_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
            let other = ListAccountUsersRequest {
                page_token: page_token.clone(),
                query: "u".into(),
                ..of_a()
            };
            assert_eq!(
                refusal(tenant.memberships().list_account_users(other).await),
                "INVALID_PAGE_TOKEN"
            );
        }
        let expected: &[&str] = if show_not_in_force {
            &["u7", "u6", "u5", "u4", "u3", "u2", "u1"]
        } else {
            &["u4", "u3", "u2", "u1"]
        };
        assert_eq!(seen, expected);
    }
    let unknown = ListAccountUsersRequest { account_id: "b".into(), ..Default::default() };
    assert_eq!(
        refusal(tenant.memberships().list_account_users(unknown).await),
        "ACCOUNT_NOT_FOUND"
    );
}

#[tokio::test]
async fn everyone_who_gets_the_invoices_is_listed_once() {
    let tenant = vendor().await;
    for id in ["ben", "cat", "dan", "eve", "fay", "gus"] {
        tenant.person(id).await;
        tenant.add_member("vendor", id).await.unwrap();
    }
    let flag = async |id: &str| {
        tenant.update_user(AccountUser { billing: true, ..the_user("a", id) }, &[]).await.unwrap();
    };
    let contacts =
        |to: &str, cc: &str| Account { cc_billing_contact_id: cc.into(), ..billing("a", to) };
    tenant.update(contacts("ben", "cat"), &[]).await.unwrap();
    flag("dan").await;
    flag("eve").await;
    flag("fay").await;
    tenant
        .try_add_user(AddAccountUserRequest { billing: true, end_date: day(-1), ..add("a", "ann") })
        .await
        .unwrap();
    tenant.update_person(only_person("fay"), &["active"]).await.unwrap();
    let list = |of: &[(&str, BillingRecipientKind)]| {
        of.iter().map(|(id, kind)| ((*id).to_owned(), *kind)).collect::<Vec<_>>()
    };
    assert_eq!(
        tenant.recipients("a").await,
        list(&[("ben", To), ("cat", Cc), ("dan", To), ("eve", To)])
    );
    flag("cat").await;
    flag("ben").await;
    assert_eq!(
        tenant.recipients("a").await,
        list(&[("ben", To), ("cat", To), ("dan", To), ("eve", To)]),
        "TO counts"
    );
    tenant.update(contacts("gus", "gus"), &[]).await.unwrap();
    let all = list(&[("ben", To), ("cat", To), ("dan", To), ("eve", To), ("gus", To)]);
    assert_eq!(tenant.recipients("a").await, all, "the same person in both places");
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListBillingRecipientsRequest {
            account_id: "a".into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page =
            tenant.memberships().list_billing_recipients(request).await.unwrap().into_inner();
        seen.extend(
            page.recipients
                .into_iter()
                .map(|recipient| (recipient.person_id.clone(), recipient.kind())),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, all);
    let unknown = ListBillingRecipientsRequest { account_id: "b".into(), ..Default::default() };
    assert_eq!(
        refusal(tenant.memberships().list_billing_recipients(unknown).await),
        "ACCOUNT_NOT_FOUND"
    );
}

#[tokio::test]
async fn the_accounts_of_a_person_are_those_they_use_today() {
    let tenant = vendor().await;
    tenant.add_member("vendor", "ann").await.unwrap();
    tenant.organization("acme", "").await;
    for id in ["b", "c", "d", "e"] {
        tenant.account(account(id, "acme")).await;
    }
    tenant
        .try_add_user(AddAccountUserRequest {
            roles: words(&["buyer"]),
            start_date: day(-1),
            ..add("b", "ann")
        })
        .await
        .unwrap();
    tenant
        .try_add_user(AddAccountUserRequest { end_date: day(-1), ..add("c", "ann") })
        .await
        .unwrap();
    tenant
        .try_add_user(AddAccountUserRequest { start_date: day(1), ..add("d", "ann") })
        .await
        .unwrap();
    tenant
        .update(Account { status: AccountStatus::Suspended.into(), ..billing("a", "ann") }, &[])
        .await
        .unwrap();
    tenant.buys_on("ann", "b").await.unwrap();
    let a = PersonAccount {
        account_id: "a".into(),
        display_name: "Account a".into(),
        organization_id: "vendor".into(),
        status: AccountStatus::Suspended.into(),
        organization_ids: words(&["vendor"]),
        contact_slots: vec![ContactSlot::BillingContact.into()],
        ..Default::default()
    };
    let b = PersonAccount {
        account_id: "b".into(),
        display_name: "Account b".into(),
        organization_id: "acme".into(),
        status: AccountStatus::Active.into(),
        individual: true,
        roles: words(&["buyer"]),
        start_date: day(-1),
        is_purchasing_account: true,
        ..Default::default()
    };
    assert_eq!(tenant.accounts_of("ann").await, [a, b]);
    let of = |id: &str| ListAccountsRequest { person_id: id.into(), ..Default::default() };
    assert_eq!(tenant.list(of("ann")).await, ["a", "b"], "the same by ListAccounts");
    let suspended =
        ListAccountsRequest { statuses: vec![AccountStatus::Suspended.into()], ..of("ann") };
    assert_eq!(tenant.list(suspended).await, ["a"], "with another filter");
    assert_eq!(tenant.list(ListAccountsRequest { query: "b".into(), ..of("ann") }).await, ["b"]);
    assert!(tenant.list(of("nobody")).await.is_empty());
    let request =
        ListPersonAccountsRequest { person_id: "ann".into(), page_size: 1, ..Default::default() };
    let page =
        tenant.memberships().list_person_accounts(request.clone()).await.unwrap().into_inner();
    assert_eq!((page.accounts.len(), page.next_page_token.is_empty()), (1, false));
    let request = ListPersonAccountsRequest { page_token: page.next_page_token, ..request };
    let page = tenant.memberships().list_person_accounts(request).await.unwrap().into_inner();
    assert_eq!((&*page.accounts[0].account_id, &*page.next_page_token), ("b", ""));
    tenant.update(only("a"), &["billing_contact_id"]).await.unwrap();
    tenant.update_person(only_person("ann"), &["active"]).await.unwrap();
    assert!(
        tenant.accounts_of("ann").await.is_empty() && tenant.list(of("ann")).await.is_empty(),
        "someone inactive uses none"
    );
    let unknown = ListPersonAccountsRequest { person_id: "nobody".into(), ..Default::default() };
    assert_eq!(
        refusal(tenant.memberships().list_person_accounts(unknown).await),
        "PERSON_NOT_FOUND"
    );
}

#[tokio::test]
async fn linked_organizations_are_listed_by_name_page_by_page() {
    let tenant = vendor().await;
    for id in ["zeta", "acme", "beta"] {
        tenant.organization(id, "").await;
        tenant.link("a", id, id == "beta").await.unwrap();
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListLinkedOrganizationsRequest {
            account_id: "a".into(),
            page_size: 3,
            page_token,
            ..Default::default()
        };
        let page =
            tenant.memberships().list_linked_organizations(request).await.unwrap().into_inner();
        seen.extend(
            page.linked_organizations
                .into_iter()
                .map(|link| (link.organization_id, link.own, link.include_descendants)),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected = [
        ("acme", false, false),
        ("beta", false, true),
        ("vendor", true, false),
        ("zeta", false, false),
    ];
    assert_eq!(seen, expected.map(|(id, own, below)| (id.to_owned(), own, below)));
    let unknown = ListLinkedOrganizationsRequest { account_id: "b".into(), ..Default::default() };
    assert_eq!(
        refusal(tenant.memberships().list_linked_organizations(unknown).await),
        "ACCOUNT_NOT_FOUND"
    );
}

#[tokio::test]
async fn a_purchasing_account_is_an_active_one_that_the_person_uses() {
    let tenant = vendor().await;
    tenant.account(account("b", "vendor")).await;
    tenant.person("dan").await;
    for (person_id, account_id, why) in [
        ("nobody", "a", "PERSON_NOT_FOUND"),
        ("nobody", "", "PERSON_NOT_FOUND"),
        ("nobody", "none", "PERSON_NOT_FOUND"),
        ("ann", "none", "ACCOUNT_NOT_FOUND"),
        ("ann", "a", "NOT_AN_ACCOUNT_USER"),
    ] {
        assert_eq!(
            refusal(tenant.buys_on(person_id, account_id).await),
            why,
            "{person_id} {account_id}"
        );
    }
    tenant.add_member("vendor", "ann").await.unwrap();
    let etag = tenant.get_person("ann").await.unwrap().etag;
    assert_eq!(tenant.buys_on("ann", "a").await.unwrap().purchasing_account_id, "a");
    let person = tenant.buys_on("ann", "b").await.unwrap();
    assert_eq!(
        (&*person.purchasing_account_id, &person.etag),
        ("b", &etag),
        "in place of the other; no change of the person"
    );
    assert_eq!(tenant.reasons("a", "ann").await, [ThroughOrganization, NotPurchasingAccount]);
    tenant
        .update(Account { status: AccountStatus::Suspended.into(), ..only("a") }, &[])
        .await
        .unwrap();
    assert_eq!(refusal(tenant.buys_on("ann", "a").await), "ACCOUNT_NOT_ACTIVE");
    tenant.remove_member("vendor", "ann").await.unwrap();
    assert_eq!(tenant.get_person("ann").await.unwrap().purchasing_account_id, "b", "stays set");
    assert_eq!(tenant.reasons("b", "ann").await, [NotAUser, PurchasingAccount]);
    tenant.add_member("vendor", "ann").await.unwrap();
    assert!(tenant.check("b", "ann").await.unwrap().may_purchase, "again, once both hold");
    tenant.update_person(only_person("ann"), &["active"]).await.unwrap();
    assert_eq!(refusal(tenant.buys_on("ann", "b").await), "PERSON_INACTIVE");
    assert_eq!(
        tenant.buys_on("ann", "").await.unwrap().purchasing_account_id,
        "",
        "cleared, whoever it is"
    );
    tenant
        .update_person(Person { active: Some(true), ..only_person("ann") }, &["active"])
        .await
        .unwrap();
    tenant.buys_on("ann", "b").await.unwrap();
    tenant.delete("b", "").await.unwrap();
    assert_eq!(
        tenant.get_person("ann").await.unwrap().purchasing_account_id,
        "",
        "gone with the account"
    );
}

#[tokio::test]
async fn a_try_keeps_nothing_and_a_repeat_gets_the_first_answer() {
    let tenant = vendor().await;
    let request = || AddAccountUserRequest { roles: words(&["owner"]), ..add("a", "ann") };
    let tried = tenant
        .try_add_user(AddAccountUserRequest { validate_only: true, ..request() })
        .await
        .unwrap();
    assert_eq!((tried.individual, tried.in_force, tried.roles), (true, true, words(&["owner"])));
    assert_eq!(tenant.user("a", "ann").await, None);
    let repeated = || AddAccountUserRequest { request_id: "r1".into(), ..request() };
    let first = tenant.try_add_user(repeated()).await.unwrap();
    assert_eq!(tenant.try_add_user(repeated()).await.unwrap(), first);
    let other = AddAccountUserRequest { billing: true, ..repeated() };
    assert_eq!(refusal(tenant.try_add_user(other).await), "REQUEST_ID_REUSED");
    assert_eq!(tenant.users("a").await, [first]);
}

#[tokio::test]
async fn every_change_of_memberships_is_in_the_trail_of_the_account() {
    let tenant = vendor().await;
    tenant.organization("acme", "").await;
    let before = tenant.trail().await.len();
    tenant.add_user("a", "ann").await;
    tenant.update_user(AccountUser { billing: true, ..the_user("a", "ann") }, &[]).await.unwrap();
    tenant.update_user(AccountUser { billing: true, ..the_user("a", "ann") }, &[]).await.unwrap();
    tenant.buys_on("ann", "a").await.unwrap();
    tenant.buys_on("ann", "a").await.unwrap();
    tenant.link("a", "acme", false).await.unwrap();
    tenant.link("a", "acme", true).await.unwrap();
    tenant.unlink("a", "acme").await.unwrap();
    tenant.remove_user("a", "ann", "").await.unwrap();
    let trail = tenant.trail().await.split_off(before);
    let seen: Vec<_> = trail
        .iter()
        .map(|it| (&*it.resource_type, &*it.resource_id, it.account_id.as_deref()))
        .collect();
    let (user, link) =
        (("account_user", "a/ann", Some("a")), ("account_organization", "a/acme", Some("a")));
    assert_eq!(seen, [user, user, ("person", "ann", Some("a")), link, link, link, user]);
    assert_eq!(trail[1].change("billing"), (&false.into(), &true.into()));
    assert_eq!(trail[4].change("include_descendants"), (&false.into(), &true.into()));
    assert_eq!(trail[2].change("purchasing_account_id").1, "a");
}

impl Tenant {
    /// Gives the tenant a time zone, and stops its clock.
    async fn at(time_zone: &str, time: &str) -> Self {
        let tenant = Self::new().await;
        let settings = TenantSettings { time_zone: time_zone.into(), ..Default::default() };
        tenant.update_settings(settings, &["time_zone"]).await.unwrap();
        tenant.stop_clock(time);
        tenant
    }
}

const fn march(day: i32) -> Date {
    Date { year: 2026, month: 3, day }
}

/// At noon in UTC on 10 March it is 11 March in Auckland, and 10 March in Los Angeles.
#[tokio::test]
async fn today_is_the_day_in_the_tenants_time_zone() {
    let noon = "2026-03-10T12:00:00Z";
    for (time_zone, is_tomorrow) in [("Pacific/Auckland", true), ("America/Los_Angeles", false)] {
        let tenant = Tenant::at(time_zone, noon).await;
        tenant.organization("vendor", "").await;
        tenant.account(account("a", "vendor")).await;
        let dated = |person_id, start_date, end_date| AddAccountUserRequest {
            start_date,
            end_date,
            billing: true,
            ..add("a", person_id)
        };
        for (id, start_date, end_date) in
            [("until", None, Some(march(10))), ("from", Some(march(11)), None)]
        {
            tenant.person(id).await;
            tenant.try_add_user(dated(id, start_date, end_date)).await.unwrap();
        }
        let (in_force, other, reason) =
            if is_tomorrow { ("from", "until", Ended) } else { ("until", "from", NotStarted) };
        assert_eq!(tenant.reasons("a", in_force).await, [Individual, NotPurchasingAccount]);
        assert_eq!(tenant.reasons("a", other).await, [reason, NotPurchasingAccount]);
        let listed = tenant
            .list_users(ListAccountUsersRequest { account_id: "a".into(), ..Default::default() })
            .await;
        assert_eq!(ids(&listed), [in_force], "{time_zone}");
        let all = tenant.users("a").await;
        let told: Vec<_> = all.iter().map(|user| (&*user.person_id, user.in_force)).collect();
        assert_eq!(told, [("from", is_tomorrow), ("until", !is_tomorrow)], "{time_zone}");
        let recipients = tenant.recipients("a").await;
        assert_eq!(recipients, [(in_force.to_owned(), To)], "{time_zone}");
        assert_eq!(tenant.accounts_of(in_force).await.len(), 1, "{time_zone}");
        assert_eq!(tenant.accounts_of(other).await.len(), 0, "{time_zone}");
        for (person_id, expected) in [(in_force, 1), (other, 0)] {
            let person_id = person_id.into();
            let request = ListAccountsRequest { person_id, ..Default::default() };
            assert_eq!(tenant.list(request).await.len(), expected, "{time_zone}");
        }
        // A new contact must be a user today, without an end date.
        let contact = |id: &str| Account { billing_contact_id: id.into(), ..only("a") };
        let from = tenant.update(contact("from"), &["billing_contact_id"]).await;
        assert_eq!(from.is_ok(), is_tomorrow, "{time_zone}: {from:?}");
    }
}

#[tokio::test]
async fn another_time_zone_counts_at_once() {
    let tenant = Tenant::at("Pacific/Auckland", "2026-03-10T12:00:00Z").await;
    tenant.organization("vendor", "").await;
    tenant.account(account("a", "vendor")).await;
    tenant.person("ann").await;
    let until = AddAccountUserRequest { end_date: Some(march(10)), ..add("a", "ann") };
    tenant.try_add_user(until).await.unwrap();
    assert!(!tenant.check("a", "ann").await.unwrap().is_user);
    let settings = TenantSettings { time_zone: "UTC".into(), ..Default::default() };
    tenant.update_settings(settings, &["time_zone"]).await.unwrap();
    assert!(tenant.check("a", "ann").await.unwrap().is_user);
    // Midnight ends it.
    tenant.stop_clock("2026-03-11T00:00:00Z");
    assert!(!tenant.check("a", "ann").await.unwrap().is_user);
    tenant.stop_clock("2026-03-10T23:59:59.999999Z");
    assert!(tenant.check("a", "ann").await.unwrap().is_user);
}

//! Memberships between the contract and the rows.

use std::collections::BTreeSet;

use chrono::{Datelike as _, NaiveDate};

use super::{
    accounts::PersonAccount,
    checks::Check,
    links::Link,
    recipients::Recipient,
    refusals,
    slots::Slot,
    store::{Fields, NewUser},
    users::{User, UserFilter},
};
use crate::{
    caller::Caller,
    error::Result,
    mask::{Elsewhere, Mask},
    page::Page,
    proto::{self, BillingRecipientKind, ContactSlot, MembershipReason, google::r#type::Date},
    text,
    validate::Violations,
    wire::{etag, timestamp},
};

/// The etag of someone for whom nothing is set on the account.
const NOTHING_SET: &str = "0";

/// What of a user other calls change than `UpdateAccountUser`.
const ELSEWHERE: &Elsewhere = &[
    ("display_name", "is changed by UpdatePerson only"),
    ("email", "is changed by UpdatePerson only"),
    ("individual", "is changed by AddAccountUser and RemoveAccountUser only"),
    (
        "organization_ids",
        "is changed by LinkOrganization, AddOrganizationMember and their counterparts only",
    ),
    ("contact_slots", "is changed by UpdateAccount only"),
];

/// Two ids that a request names.
pub struct Pair {
    /// The account.
    pub account_id: String,
    /// The person or the organization.
    pub other_id: String,
    /// The etag sent along, if any.
    etag: String,
}

impl Pair {
    /// An account and a person.
    pub fn person(
        account_id: String,
        person_id: String,
        etag: String,
        request_id: &str,
    ) -> Result<Self> {
        Self::parse(account_id, "person_id", person_id, etag, request_id)
    }

    /// An account and an organization.
    pub fn organization(
        account_id: String,
        organization_id: String,
        request_id: &str,
    ) -> Result<Self> {
        Self::parse(account_id, "organization_id", organization_id, String::new(), request_id)
    }

    fn parse(
        account_id: String,
        other: &str,
        other_id: String,
        etag: String,
        request_id: &str,
    ) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(request_id);
        let account_id = v.id("account_id", account_id);
        let other_id = v.id(other, other_id);
        v.finish(Self { account_id, other_id, etag })
    }

    /// Refuses to change a user who has changed since the caller read them.
    pub fn check(&self, user: &User) -> Result<()> {
        require_user_etag(&self.etag, user)
    }
}

/// Who buys on what: the person, and the account or `None`.
pub fn purchasing(request: proto::SetPurchasingAccountRequest) -> Result<(String, Option<String>)> {
    let mut v = Violations::default();
    v.request_id(&request.request_id);
    let person_id = v.id("person_id", request.person_id);
    let account_id = v.optional_id("account_id", request.account_id);
    v.finish((person_id, account_id))
}

/// The pairs of account and person of a check.
pub fn check(request: proto::CheckMembershipRequest) -> Result<(String, String)> {
    let pair = Pair::person(request.account_id, request.person_id, String::new(), "")?;
    Ok((pair.account_id, pair.other_id))
}

/// The same for several.
pub fn checks(request: proto::BatchCheckMembershipsRequest) -> Result<Vec<(String, String)>> {
    let mut v = Violations::default();
    if request.requests.is_empty() {
        v.add("requests", "must have at least 1 entry");
    }
    let pair = |(i, request): (usize, proto::CheckMembershipRequest)| {
        let account_id = v.id(format_args!("requests[{i}].account_id"), request.account_id);
        (account_id, v.id(format_args!("requests[{i}].person_id"), request.person_id))
    };
    let pairs = request.requests.into_iter().enumerate().map(pair).collect();
    v.finish(pairs)
}

impl UserFilter {
    /// What a list request asks for, and which page of it.
    pub fn parse(
        caller: &Caller,
        mut request: proto::ListAccountUsersRequest,
    ) -> Result<(Self, Page)> {
        let mut v = Violations::default();
        let page = Page::take(&mut v, caller, &mut request)?;
        let filter = Self {
            account_id: v.id("account_id", request.account_id),
            query: v.query("query", request.query),
            show_not_in_force: request.show_not_in_force,
        };
        v.finish((filter, page))
    }
}

/// A list of what one resource has: its id, and which page of the list.
macro_rules! list_of {
    ($(#[$doc:meta])* $name:ident, $request:ty, $id:ident) => {
        $(#[$doc])*
        pub fn $name(caller: &Caller, mut request: $request) -> Result<(String, Page)> {
            let mut v = Violations::default();
            let page = Page::take(&mut v, caller, &mut request)?;
            let id = v.id(stringify!($id), request.$id);
            v.finish((id, page))
        }
    };
}
list_of!(
    /// The account whose links are listed.
    links, proto::ListLinkedOrganizationsRequest, account_id
);
list_of!(
    /// The account whose billing recipients are listed.
    recipients, proto::ListBillingRecipientsRequest, account_id
);
list_of!(
    /// The person whose accounts are listed.
    accounts, proto::ListPersonAccountsRequest, person_id
);

impl NewUser {
    /// A valid new individual user, or every violation of the request.
    pub fn parse(request: proto::AddAccountUserRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let account_id = v.id("account_id", request.account_id);
        let person_id = v.id("person_id", request.person_id);
        let fields = Fields {
            individual: true,
            roles: request.roles,
            billing: request.billing,
            start_date: date(&mut v, "start_date", request.start_date),
            end_date: date(&mut v, "end_date", request.end_date),
        };
        require_span(&mut v, "end_date", &fields);
        v.finish(Self { account_id, person_id, fields })
    }

    /// The fields with each role once, in alphabetical order, or every role that is none of the
    /// tenant's.
    pub fn fields(&self, roles_of_tenant: &[String]) -> Result<Fields> {
        let mut v = Violations::default();
        let roles = roles(&mut v, "roles", self.fields.roles.clone(), roles_of_tenant);
        v.finish(Fields { roles, ..self.fields.clone() })
    }
}

/// An update as it was asked for; what it comes to depends on the present user.
pub struct Update {
    /// Which account.
    pub account_id: String,
    /// Which person.
    pub person_id: String,
    wanted: proto::AccountUser,
    mask: Mask,
}

impl Update {
    /// The update, or every violation that shows without the present user.
    pub fn parse(request: proto::UpdateAccountUserRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let wanted = v.message("account_user", request.account_user);
        let account_id = v.id("account_user.account_id", wanted.account_id.clone());
        let person_id = v.id("account_user.person_id", wanted.person_id.clone());
        let mask = Mask::parse(&mut v, &wanted, request.update_mask, ELSEWHERE)?;
        v.finish(Self { account_id, person_id, wanted, mask })
    }

    /// What is set for the user after the update: roles, billing flag and dates.
    pub fn apply(&self, user: &User, roles_of_tenant: &[String]) -> Result<Fields> {
        require_user_etag(&self.wanted.etag, user)?;
        let mut v = Violations::default();
        let present = proto::AccountUser::from(user.clone());
        let merged = self.mask.apply(&mut v, "account_user", &present, &self.wanted)?;
        let fields = Fields {
            individual: user.is_individual(),
            roles: roles(&mut v, "account_user.roles", merged.roles, roles_of_tenant),
            billing: merged.billing,
            start_date: date(&mut v, "account_user.start_date", merged.start_date),
            end_date: date(&mut v, "account_user.end_date", merged.end_date),
        };
        if !fields.individual {
            for (field, date) in [("start_date", fields.start_date), ("end_date", fields.end_date)]
            {
                if date.is_some() {
                    v.add(format_args!("account_user.{field}"), "is for individual users only");
                }
            }
        }
        require_span(&mut v, "account_user.end_date", &fields);
        v.finish(fields)
    }
}

fn roles(v: &mut Violations, field: &str, roles: Vec<String>, of_tenant: &[String]) -> Vec<String> {
    let mut known = BTreeSet::new();
    for (i, role) in roles.into_iter().enumerate() {
        // A tenant may have roles from before that differ by case only.
        let exact = of_tenant.iter().find(|of_tenant| **of_tenant == role);
        let caseless = || {
            of_tenant.iter().find(|of_tenant| text::caseless(of_tenant) == text::caseless(&role))
        };
        match exact.or_else(caseless) {
            Some(role) => drop(known.insert(role.clone())),
            None => v.add(
                format_args!("{field}[{i}]"),
                format!("must be one of the tenant's roles: {}", of_tenant.join(", ")),
            ),
        }
    }
    known.into_iter().collect()
}

fn require_span(v: &mut Violations, field: &str, fields: &Fields) {
    if let (Some(start), Some(end)) = (fields.start_date, fields.end_date)
        && end < start
    {
        v.add(field, "must not be before the start date");
    }
}

/// A full date; the zero date is none, as no date is.
fn date(v: &mut Violations, field: &str, date: Option<Date>) -> Option<NaiveDate> {
    let date = date.filter(|date| *date != Date::default())?;
    let parsed = || {
        let year = (1..=9999).contains(&date.year).then_some(date.year)?;
        NaiveDate::from_ymd_opt(
            year,
            u32::try_from(date.month).ok()?,
            u32::try_from(date.day).ok()?,
        )
    };
    let parsed = parsed();
    if parsed.is_none() {
        v.add(field, "must be a full date of the calendar, from year 1 to 9999");
    }
    parsed
}

fn to_date(date: NaiveDate) -> Date {
    // Months and days are small.
    let small = |number: u32| i32::try_from(number).unwrap_or_default();
    Date { year: date.year(), month: small(date.month()), day: small(date.day()) }
}

fn user_etag(user: &User) -> String {
    user.record
        .as_ref()
        .map_or_else(|| NOTHING_SET.to_owned(), |record| etag(record.create_time, record.revision))
}

/// Refuses a change when the caller sent an etag and it is not that of the user.
fn require_user_etag(sent: &str, user: &User) -> Result<()> {
    if sent.is_empty() || sent == user_etag(user) {
        return Ok(());
    }
    Err(refusals::account_user_changed(&user.account_id, &user.person.person_id))
}

fn to_slot(slot: Slot) -> i32 {
    match slot {
        Slot::Primary => ContactSlot::PrimaryContact,
        Slot::Billing => ContactSlot::BillingContact,
        Slot::CcBilling => ContactSlot::CcBillingContact,
    }
    .into()
}

impl From<User> for proto::AccountUser {
    fn from(user: User) -> Self {
        let (in_force, removable, etag) = (user.in_force(), user.is_removable(), user_etag(&user));
        let (create_time, update_time) = user
            .record
            .as_ref()
            .map(|record| (timestamp(record.create_time), timestamp(record.update_time)))
            .unzip();
        let fields = user.record.map(|record| record.fields).unwrap_or_default();
        Self {
            account_id: user.account_id,
            person_id: user.person.person_id,
            display_name: user.person.fields.display_name,
            email: user.person.fields.email,
            individual: fields.individual,
            organization_ids: user.organization_ids,
            roles: fields.roles,
            billing: fields.billing,
            removable,
            start_date: fields.start_date.map(to_date),
            end_date: fields.end_date.map(to_date),
            contact_slots: user.slots.into_iter().map(to_slot).collect(),
            in_force,
            etag,
            create_time,
            update_time,
        }
    }
}

impl From<Link> for proto::LinkedOrganization {
    fn from(link: Link) -> Self {
        // Nobody has set anything on the account's own organization as long as its link is as it
        // was made.
        let set = !link.own || link.include_descendants || link.update_time != link.create_time;
        Self {
            account_id: link.account_id,
            organization_id: link.organization_id,
            display_name: link.display_name,
            include_descendants: link.include_descendants,
            own: link.own,
            create_time: set.then(|| timestamp(link.create_time)),
            update_time: set.then(|| timestamp(link.update_time)),
        }
    }
}

impl From<Recipient> for proto::BillingRecipient {
    fn from(recipient: Recipient) -> Self {
        let kind = if recipient.copy { BillingRecipientKind::Cc } else { BillingRecipientKind::To };
        Self {
            person_id: recipient.person.person_id,
            display_name: recipient.person.fields.display_name,
            email: recipient.person.fields.email,
            kind: kind.into(),
        }
    }
}

impl From<PersonAccount> for proto::PersonAccount {
    fn from(row: PersonAccount) -> Self {
        let set = row.record.map(|record| record.fields).unwrap_or_default();
        let account = proto::Account::from(row.account);
        Self {
            account_id: account.account_id,
            display_name: account.display_name,
            organization_id: account.organization_id,
            status: account.status,
            individual: set.individual,
            organization_ids: row.organization_ids,
            roles: set.roles,
            billing: set.billing,
            start_date: set.start_date.map(to_date),
            end_date: set.end_date.map(to_date),
            contact_slots: row.slots.into_iter().map(to_slot).collect(),
            is_purchasing_account: row.is_purchasing_account,
        }
    }
}

impl From<Check> for proto::CheckMembershipResponse {
    fn from(check: Check) -> Self {
        let today = super::store::today();
        let individual = check.individual.as_ref();
        let through = !check.organization_ids.is_empty();
        let applies = [
            (check.person_active && check.individual_today(), MembershipReason::Individual),
            (check.person_active && through, MembershipReason::ThroughOrganization),
            (check.person_active && individual.is_none() && !through, MembershipReason::NotAUser),
            (
                check.person_active
                    && individual
                        .is_some_and(|it| it.start_date.is_some_and(|start| start > today)),
                MembershipReason::NotStarted,
            ),
            (
                check.person_active
                    && individual.is_some_and(|it| it.end_date.is_some_and(|end| end < today)),
                MembershipReason::Ended,
            ),
            (!check.person_active, MembershipReason::PersonInactive),
            (check.purchasing_account, MembershipReason::PurchasingAccount),
            (!check.purchasing_account, MembershipReason::NotPurchasingAccount),
            (!check.account_active, MembershipReason::AccountNotActive),
        ];
        Self {
            is_user: check.is_user(),
            may_purchase: check.may_purchase(),
            individual: check.individual_today(),
            reasons: applies
                .into_iter()
                .filter(|(applies, _)| *applies)
                .map(|(_, reason)| reason.into())
                .collect(),
            organization_ids: if check.person_active { check.organization_ids } else { Vec::new() },
        }
    }
}

//! Memberships between the contract and the rows.

use std::collections::BTreeSet;

use super::{
    accounts::PersonAccount,
    checks::{Check, Reason},
    links::Link,
    recipients::Recipient,
    store::NewUser,
    users::{User, UserFilter},
};
use crate::{
    change::{ById, Draft, Update, Versioned as _},
    error::Result,
    mask::Elsewhere,
    proto::{self, BillingRecipientKind, ContactSlot, MembershipReason},
    relations::{settings::Fields, slots::Slot},
    text,
    validate::Violations,
    wire::{timestamp, to_date},
};

/// The fields of a user that other calls than `UpdateAccountUser` change.
pub const ELSEWHERE: &Elsewhere = &[
    ("display_name", "is changed by UpdatePerson only"),
    ("email", "is changed by UpdatePerson only"),
    ("individual", "is changed by AddAccountUser and RemoveAccountUser only"),
    (
        "organization_ids",
        "is changed by LinkOrganization, AddOrganizationMember and their counterparts only",
    ),
    ("contact_slots", "is changed by UpdateAccount only"),
];

/// Parses a removal: account and person, with the etag.
pub fn removal(
    v: &mut Violations,
    request: proto::RemoveAccountUserRequest,
) -> ById<(String, String)> {
    let user = (v.id("account_id", request.account_id), v.id("person_id", request.person_id));
    ById::new(user, request.etag)
}

/// Parses a link: account, organization, and whether it covers descendants.
pub fn link(v: &mut Violations, request: proto::LinkOrganizationRequest) -> (String, String, bool) {
    let account_id = v.id("account_id", request.account_id);
    let organization_id = v.id("organization_id", request.organization_id);
    (account_id, organization_id, request.include_descendants)
}

/// Parses an unlinking: account and organization.
pub fn unlink(v: &mut Violations, request: proto::UnlinkOrganizationRequest) -> (String, String) {
    let account_id = v.id("account_id", request.account_id);
    (account_id, v.id("organization_id", request.organization_id))
}

/// Parses the choice of a purchasing account: the person, and the account, or `None` to clear it.
pub fn purchasing(
    v: &mut Violations,
    request: proto::SetPurchasingAccountRequest,
) -> (String, Option<String>) {
    let person_id = v.id("person_id", request.person_id);
    (person_id, v.optional_id("account_id", request.account_id))
}

/// Parses a check: account and person.
pub fn check(v: &mut Violations, request: proto::CheckMembershipRequest) -> (String, String) {
    (v.id("account_id", request.account_id), v.id("person_id", request.person_id))
}

/// Parses a batch of checks: accounts with people.
pub fn checks(
    v: &mut Violations,
    request: proto::BatchCheckMembershipsRequest,
) -> Vec<(String, String)> {
    if request.requests.is_empty() {
        v.add("requests", "must have at least 1 entry");
    }
    let pair = |(i, request): (usize, proto::CheckMembershipRequest)| {
        let account_id = v.id(format_args!("requests[{i}].account_id"), request.account_id);
        (account_id, v.id(format_args!("requests[{i}].person_id"), request.person_id))
    };
    request.requests.into_iter().enumerate().map(pair).collect()
}

impl UserFilter {
    /// Parses which users a list request asks for.
    pub fn parse(v: &mut Violations, request: proto::ListAccountUsersRequest) -> Self {
        Self {
            account_id: v.id("account_id", request.account_id),
            query: v.query("query", request.query),
            show_not_in_force: request.show_not_in_force,
        }
    }
}

impl NewUser {
    /// Parses a new individual user.
    pub fn parse(v: &mut Violations, request: proto::AddAccountUserRequest) -> Self {
        let account_id = v.id("account_id", request.account_id);
        let person_id = v.id("person_id", request.person_id);
        let fields = Fields {
            individual: true,
            roles: request.roles,
            billing: request.billing,
            start_date: v.date("start_date", request.start_date),
            end_date: v.date("end_date", request.end_date),
        };
        require_span(v, "end_date", &fields);
        Self { account_id, person_id, fields }
    }

    /// Returns the fields with each role once, in alphabetical order. Fails with every role that
    /// the tenant does not have.
    pub fn fields(&self, roles_of_tenant: &[String]) -> Result<Fields> {
        let mut v = Violations::default();
        let roles = roles(&mut v, "roles", self.fields.roles.clone(), roles_of_tenant);
        v.finish(Fields { roles, ..self.fields.clone() })
    }
}

impl Update<proto::AccountUser> {
    /// Returns the settings of the user after the update: roles, billing flag and dates.
    pub fn fields(&self, user: &User, roles_of_tenant: &[String]) -> Result<Fields> {
        let Draft { merged, violations: mut v, .. } = self.apply(user)?;
        let fields = Fields {
            individual: user.is_individual(),
            roles: roles(&mut v, "account_user.roles", merged.roles, roles_of_tenant),
            billing: merged.billing,
            start_date: v.date("account_user.start_date", merged.start_date),
            end_date: v.date("account_user.end_date", merged.end_date),
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
        // Earlier versions let a tenant have roles that differ by case only.
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
        let (in_force, removable, etag) = (user.in_force(), user.is_removable(), user.etag());
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

impl From<Reason> for i32 {
    fn from(reason: Reason) -> Self {
        let reason = match reason {
            Reason::Individual => MembershipReason::Individual,
            Reason::ThroughOrganization => MembershipReason::ThroughOrganization,
            Reason::NotAUser => MembershipReason::NotAUser,
            Reason::NotStarted => MembershipReason::NotStarted,
            Reason::Ended => MembershipReason::Ended,
            Reason::PersonInactive => MembershipReason::PersonInactive,
            Reason::PurchasingAccount => MembershipReason::PurchasingAccount,
            Reason::NotPurchasingAccount => MembershipReason::NotPurchasingAccount,
            Reason::AccountNotActive => MembershipReason::AccountNotActive,
        };
        reason as Self
    }
}

impl From<Check> for proto::CheckMembershipResponse {
    fn from(check: Check) -> Self {
        Self {
            is_user: check.is_user(),
            may_purchase: check.may_purchase(),
            individual: check.individual_today(),
            reasons: check.reasons().into_iter().map(Into::into).collect(),
            organization_ids: if check.person_active { check.organization_ids } else { Vec::new() },
        }
    }
}

//! The one error of the service, and its one translation to `google.rpc.Status`.
//!
//! Every answer carries an `ErrorInfo` with a stable reason; the reasons are
//! `accounts.v1.ErrorReason`. What went wrong inside (SQL, addresses, panics) goes to the log and
//! never to a client.

mod answer;

use std::sync::Arc;

use crate::memberships::slots::Holder;

/// What the calls and everything below them return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Most resources that an error names.
const NAMED: usize = 20;
/// Bytes that stand around the violations in the message of an error: how many there are, and how
/// many are left out.
const SUMMARY_FRAME: usize = 100;

/// A kind of resource, as errors and the activity trail name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `accounts.v1.Account`
    Account,
    /// `accounts.v1.AccountType`
    AccountType,
    /// `accounts.v1.Organization`
    Organization,
    /// `accounts.v1.Person`
    Person,
}

impl Kind {
    /// The noun in `snake_case`: the resource type of the trail, and with `_id` the name of the id
    /// field.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::AccountType => "account_type",
            Self::Organization => "organization",
            Self::Person => "person",
        }
    }
}

/// One rule that one field of a request breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field from the request: `account.billing_address.country`.
    pub field: String,
    /// The rule, for the person who reads the error.
    pub rule: String,
}

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request break rules.
    #[error("{}", summary(.violations, *.count))]
    Invalid {
        /// The violations, or the first of very many.
        violations: Vec<Violation>,
        /// How many there are in all.
        count: usize,
    },
    /// The page token is not one that this list gave for these filters in this tenant.
    #[error("page_token was not given out for this list with these filters")]
    PageToken,
    /// The cursor is not one that this watch gave in this tenant.
    #[error("cursor was not given out for this watch with this account_id")]
    Cursor,
    /// Activities behind the cursor are gone, or the database has never been where the cursor is.
    #[error(
        "the cursor is older than the activities that are kept, or comes from another database: list again and watch from now on"
    )]
    CursorExpired,
    /// The watch has lasted long enough, or the service shuts down.
    #[error("the watch has ended, as every watch does: watch again from the last cursor")]
    WatchEnded,
    /// The request id already belongs to another request.
    #[error("request_id was used for another request in the last 24 hours")]
    RequestIdReused,
    /// There is no such resource, or it is not visible to the caller: the two are the same answer.
    #[error("no {} {id:?}", noun(*.kind))]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// The id, or a name that must be unique, is taken.
    #[error("there is already {} {} with the {field} {value:?}", article(*.kind), noun(*.kind))]
    AlreadyExists {
        /// What could not be created or renamed.
        kind: Kind,
        /// The field whose value is taken.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// The resource has changed since the caller read it.
    #[error("{} {id:?} has changed since its etag was read", noun(*.kind))]
    EtagMismatch {
        /// What changed.
        kind: Kind,
        /// Its id.
        id: String,
    },
    /// The caller's reach is limited and does not include what the call would change.
    #[error("{why}: ask someone who reaches the whole tenant")]
    OutOfReach {
        /// What would be changed, or why that is for others.
        why: &'static str,
    },
    /// The settings of the tenant have changed since the caller read them.
    #[error("the settings have changed since their etag was read")]
    SettingsChanged,
    /// What is set for a user of an account has changed since the caller read it.
    #[error(
        "what is set for person {person_id:?} on account {account_id:?} has changed since its etag was read"
    )]
    AccountUserEtagMismatch {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
    },
    /// The change lost against others made at the same time, more often than it was worth trying
    /// again.
    #[error("too many others changed the same resources at the same time; nothing was changed")]
    Conflict,
    /// The account type is deactivated and cannot be assigned or kept.
    #[error("account type {id:?} is deactivated: choose an active one, or none")]
    AccountTypeInactive {
        /// The account type.
        id: String,
    },
    /// A deactivated account type cannot be the default.
    #[error("account type {id:?} is deactivated: a default must be active")]
    DefaultAccountTypeInactive {
        /// The account type.
        id: String,
    },
    /// The status cannot follow the present one.
    #[error("an account cannot go from {from} to {to}")]
    StatusTransition {
        /// The account.
        id: String,
        /// The present status.
        from: &'static str,
        /// The status asked for.
        to: &'static str,
    },
    /// The organization would lie too deep.
    #[error("organization {parent_id:?} is at level {max}, the deepest there is: it cannot have organizations below it", max = crate::organizations::MAX_DEPTH)]
    OrganizationTooDeep {
        /// The organization it would lie below.
        parent_id: String,
    },
    /// The organization would lie below itself.
    #[error(
        "organization {organization_id:?} cannot be moved below {parent_id:?}, which is itself or lies below it"
    )]
    OrganizationCycle {
        /// The organization to be moved.
        organization_id: String,
        /// Where to.
        parent_id: String,
    },
    /// The organization has others directly below it, or accounts.
    #[error(
        "organization {organization_id:?} has {children} organizations directly below it, {accounts} accounts, and links to \
         {links} accounts of others"
    )]
    OrganizationNotEmpty {
        /// The organization to be deleted.
        organization_id: String,
        /// Organizations directly below it.
        children: i64,
        /// Accounts that belong to it.
        accounts: i64,
        /// Accounts of other organizations that it is linked to.
        links: i64,
    },
    /// The person is not a member of the organization itself.
    #[error("person {person_id:?} is not a member of organization {organization_id:?}")]
    OrganizationMemberNotFound {
        /// The organization.
        organization_id: String,
        /// The person.
        person_id: String,
    },
    /// The person is not a user of the account.
    #[error("person {person_id:?} is not a user of account {account_id:?}")]
    NotAnAccountUser {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
    },
    /// The person is in no way a user of the account.
    #[error("person {person_id:?} is not a user of account {account_id:?}")]
    AccountUserNotFound {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
    },
    /// The person was already added by name.
    #[error("person {person_id:?} is an individual user of account {account_id:?} already")]
    AccountUserAlreadyExists {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
    },
    /// The person is a user through organizations only.
    #[error(
        "person {person_id:?} is a user of account {account_id:?} through {}, and users added through an organization cannot be \
         removed here: take them out of it, or unlink it",
        organizations(.organization_ids)
    )]
    UserThroughOrganization {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
        /// The organizations.
        organization_ids: Vec<String>,
    },
    /// The organization is not linked to the account.
    #[error("organization {organization_id:?} is not linked to account {account_id:?}")]
    OrganizationNotLinked {
        /// The account.
        account_id: String,
        /// The organization.
        organization_id: String,
    },
    /// The account belongs to the organization.
    #[error(
        "account {account_id:?} belongs to organization {organization_id:?}, which is therefore always linked to it"
    )]
    OwnOrganizationLinked {
        /// The account.
        account_id: String,
        /// The organization.
        organization_id: String,
    },
    /// The person is a user of the account only for a time.
    #[error(
        "person {person_id:?} is a user of account {account_id:?} only until a date, and a contact must be one without end"
    )]
    ContactMembershipEnds {
        /// The account.
        account_id: String,
        /// The person.
        person_id: String,
    },
    /// The change would cost contacts their place.
    #[error("{} would be held by someone who may not hold it", held(.slots, *.count))]
    ContactSlotHeld {
        /// The slots that the caller may know of.
        slots: Vec<Holder>,
        /// How many there are in all.
        count: usize,
    },
    /// The person is not a customer's.
    #[error("person {person_id:?} is not of the kind CUSTOMER, as a contact must be")]
    PersonNotCustomer {
        /// The person.
        person_id: String,
    },
    /// The account is not active.
    #[error("account {account_id:?} is not ACTIVE, as a purchasing account must be")]
    AccountNotActive {
        /// The account.
        account_id: String,
    },
    /// The person is inactive.
    #[error("person {person_id:?} is inactive")]
    PersonInactive {
        /// The person.
        person_id: String,
    },
    /// The person is not one of the tenant's staff.
    #[error("person {person_id:?} is not of the kind STAFF, as an account manager must be")]
    PersonNotStaff {
        /// The person.
        person_id: String,
    },
    /// The person manages accounts.
    #[error("person {person_id:?} is the manager of {accounts} accounts")]
    PersonInUse {
        /// The person.
        person_id: String,
        /// How many accounts.
        accounts: i64,
        /// The first of them.
        first: Vec<String>,
    },
    /// Nobody the service knows is calling.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller's roles do not include what the call needs.
    #[error("the call needs the permission {permission}, which none of the caller's roles has")]
    PermissionDenied {
        /// The permission of the call's policy.
        permission: String,
    },
    /// The module of the call is switched off.
    #[error("the module {module} is off for {}", off_for(organization_id.as_deref()))]
    ModuleOff {
        /// The module of the call's policy.
        module: &'static str,
        /// The organization whose setting decides; `None` for the tenant.
        organization_id: Option<String>,
    },
    /// The caller's workload is not one that may call, or not one that is known.
    #[error(
        "the workload that calls, as its certificate names it, is not among those that may call this service"
    )]
    WorkloadNotAllowed {
        /// The workload, if its certificate names one.
        workload: Option<Arc<str>>,
    },
    /// The service, or its share of the database, is busy; the call was not started.
    #[error("the service is busy; the call was not started")]
    Overloaded,
    /// The caller's deadline, or the service's own, has passed.
    #[error("the call took longer than its deadline")]
    DeadlineExceeded,
    /// A lock that the change needs was held by another one for too long.
    #[error(
        "another change holds what this one needs and has not ended in time; nothing was changed"
    )]
    Locked,
    /// The database cannot be reached.
    #[error("the database cannot be reached; nothing was changed")]
    DatabaseUnavailable,
    /// The database takes no writes at present: it is a standby, or was made read only.
    #[error("the database takes no writes at present; nothing was changed")]
    DatabaseReadOnly,
    /// The connection to the database was lost while it committed the change.
    #[error(
        "the connection to the database was lost while the change was committed: it may have been made or not"
    )]
    OutcomeUnknown {
        /// Whether the request can be sent again without making the change twice.
        repeatable: bool,
    },
    /// The keys of the token's issuer are not there, or too old.
    #[error("the keys to check the token with cannot be fetched from its issuer")]
    IssuerUnavailable,
    /// There is no such call.
    #[error("the service has no call {0}")]
    Unimplemented(String),
    /// The messages of the request are compressed in a way that the service does not read.
    #[error(
        "messages in the encoding {encoding:?} are not understood: send them compressed with gzip, or uncompressed"
    )]
    UnsupportedEncoding {
        /// The encoding that the request names.
        encoding: String,
    },
    /// The request message, or its metadata, is larger than the service accepts.
    #[error("the request is larger than the service accepts")]
    RequestTooLarge,
    /// The answer would be larger than clients accept.
    #[error("the answer would be larger than clients accept: ask for fewer at once")]
    ResponseTooLarge,
    /// The request is no message that the call understands.
    #[error("the request is no message that the call understands")]
    MalformedRequest,
    /// A fault of the service itself. The text is for the log.
    #[error("{0}")]
    Internal(String),
    /// A fault that trying the transaction again can mend; `write` turns it into `Conflict` when it
    /// gives up.
    #[error("transaction lost a race")]
    Retry,
}

impl Error {
    /// Whether a call that failed so says nothing about an earlier one with the same request.
    pub const fn says_nothing(&self) -> bool {
        matches!(
            self,
            Self::Retry
                | Self::Conflict
                | Self::Locked
                | Self::Overloaded
                | Self::DeadlineExceeded
                | Self::DatabaseUnavailable
                | Self::DatabaseReadOnly
                | Self::OutcomeUnknown { .. }
                | Self::Internal(_)
        )
    }
}

fn noun(kind: Kind) -> String {
    kind.noun().replace('_', " ")
}

fn article(kind: Kind) -> &'static str {
    if noun(kind).starts_with(['a', 'o']) { "an" } else { "a" }
}

fn organizations(ids: &[String]) -> String {
    let listed: Vec<_> = ids.iter().take(NAMED).map(|id| format!("{id:?}")).collect();
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} {}{more}",
        if ids.len() == 1 { "organization" } else { "organizations" },
        listed.join(", ")
    )
}

fn off_for(organization_id: Option<&str>) -> String {
    organization_id.map_or_else(
        || "the tenant".to_owned(),
        |id| format!("organization {id:?} and what inherits from it"),
    )
}

fn held(holders: &[Holder], count: usize) -> String {
    match holders {
        [Holder { account_id, slot, .. }] if count == 1 => {
            format!("the {} of account {account_id:?}", slot.name().replace('_', " "))
        }
        _ if count == 1 => "a contact slot".to_owned(),
        _ => format!("{count} contact slots"),
    }
}

/// The violations as one text, of those that fit into a message.
fn summary(violations: &[Violation], count: usize) -> String {
    let mut text = format!("{count} invalid {}: ", if count == 1 { "field" } else { "fields" });
    let mut left = answer::MAX_MESSAGE - SUMMARY_FRAME;
    for (i, violation) in violations.iter().enumerate() {
        let line =
            format!("{}{}: {}", if i == 0 { "" } else { "; " }, violation.field, violation.rule);
        // The first is there in any case, if only its beginning.
        match left.checked_sub(answer::percent_encoded_len(&line)) {
            None if i > 0 => return format!("{text}; and {} more", count - i),
            rest => left = rest.unwrap_or_default(),
        }
        text.push_str(&line);
    }
    if count > violations.len() {
        format!("{text}; and {} more", count - violations.len())
    } else {
        text
    }
}

impl Error {
    /// One field, one rule.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid {
            violations: vec![Violation { field: field.into(), rule: rule.into() }],
            count: 1,
        }
    }

    /// No such call.
    pub fn unimplemented(path: &str) -> Self {
        Self::Unimplemented(path.trim_start_matches('/').to_owned())
    }

    /// No such resource.
    pub fn not_found(kind: Kind, id: &str) -> Self {
        Self::NotFound { kind, id: id.to_owned() }
    }
}

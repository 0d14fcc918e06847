//! The reasons for which a call on subscriptions or orders is refused.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    error::{Error, Refusal},
    memberships::checks::Reason,
    proto::ErrorReason,
    resource::{ACCOUNT, Kind, PERSON},
};

/// `accounts.v1.Subscription`. A `PutSubscription` finds an id taken only by another account.
pub const SUBSCRIPTION: Kind = Kind {
    noun: "subscription",
    not_found: ErrorReason::SubscriptionNotFound,
    already_exists: ErrorReason::RecordOfAnotherAccount,
};

/// `accounts.v1.Order`. An order is taken by one with other content.
pub const ORDER: Kind = Kind {
    noun: "order",
    not_found: ErrorReason::OrderNotFound,
    already_exists: ErrorReason::OrderAlreadyExists,
};

/// A put would let the subscription run on beyond the end that `CancelSubscription` has set.
pub fn subscription_cancelled(id: &str, end: DateTime<Utc>) -> Error {
    let end = end.to_rfc3339_opts(SecondsFormat::Micros, true);
    let message = format!(
        "subscription {id:?} is cancelled at {end}: end it no later, or call \
         UncancelSubscription first"
    );
    Refusal::new(ErrorReason::SubscriptionCancelled, message)
        .broken_by(SUBSCRIPTION.noun, id)
        .with("subscription_id", id)
        .with("end_time", &end)
        .into()
}

/// The person may not buy on the account, for these reasons.
pub fn purchaser_not_allowed(account_id: &str, person_id: &str, reasons: &[Reason]) -> Error {
    let names: Vec<_> = reasons.iter().map(|reason| reason.name()).collect();
    let names = names.join(",");
    let message = format!("person {person_id:?} may not buy on account {account_id:?}: {names}");
    let refusal = Refusal::new(ErrorReason::PurchaserNotAllowed, message)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .with("reasons", &names);
    let explained = |refusal: Refusal, reason: &Reason| {
        let (kind, id) = match reason {
            Reason::AccountNotActive => (ACCOUNT, account_id),
            _ => (PERSON, person_id),
        };
        refusal.precondition(&format!("{}/{id}", kind.noun), reason.name())
    };
    reasons.iter().fold(refusal, explained).into()
}

//! The reasons for which a person cannot be a user, contact or buyer of an account.

use super::slots::Holder;
use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::{ACCOUNT, PERSON},
};

/// A contact, and someone who is to buy on an account, must be its user.
pub fn not_an_account_user(account_id: &str, person_id: &str) -> Error {
    let message = format!("person {person_id:?} is not a user of account {account_id:?}");
    Refusal::new(ErrorReason::NotAnAccountUser, message)
        .broken_by(ACCOUNT.noun, account_id)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .into()
}

/// A user of the account only until a date cannot be its contact.
pub fn contact_membership_ends(account_id: &str, person_id: &str) -> Error {
    let message = format!(
        "person {person_id:?} is a user of account {account_id:?} only until a date, and a contact \
         must be one without end"
    );
    Refusal::new(ErrorReason::ContactMembershipEnds, message)
        .broken_by(ACCOUNT.noun, account_id)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .into()
}

/// The change would leave accounts with contacts who may not be contacts. `holders` are those that
/// the caller may know of, and `count` says how many there are in all.
pub fn contact_slot_held(holders: &[Holder], count: usize) -> Error {
    let message = match holders {
        [Holder { account_id, slot, .. }] if count == 1 => format!(
            "the change would leave account {account_id:?} with a {} who is not eligible",
            slot.name().replace('_', " ")
        ),
        _ if count == 1 => {
            "the change would leave an account with a contact who is not eligible".to_owned()
        }
        _ => format!(
            "the change would leave {count} contact slots with people not eligible for them"
        ),
    };
    let refusal = Refusal::new(ErrorReason::ContactSlotHeld, message).with("slots", &count);
    holders
        .iter()
        .fold(refusal, |refusal, Holder { account_id, slot, person_id }| {
            let subject = format!("{}/{account_id}/{}", ACCOUNT.noun, slot.name());
            let advice = format!("held by person {person_id:?}: put someone else there, or nobody");
            refusal.precondition(&subject, &advice)
        })
        .into()
}

/// A contact must be a person of a customer.
pub fn person_not_customer(person_id: &str) -> Error {
    let message = format!("person {person_id:?} is not of the kind CUSTOMER, as a contact must be");
    Refusal::new(ErrorReason::PersonNotCustomer, message)
        .broken_by(PERSON.noun, person_id)
        .with("person_id", person_id)
        .into()
}

/// The person is inactive: they can neither be added to an account, nor become its contact or
/// manager, nor get a purchasing account.
pub fn person_inactive(person_id: &str) -> Error {
    Refusal::new(ErrorReason::PersonInactive, format!("person {person_id:?} is inactive"))
        .broken_by(PERSON.noun, person_id)
        .with("person_id", person_id)
        .into()
}

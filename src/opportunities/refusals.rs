//! The kind of resource, for errors on opportunities.

use crate::{proto::ErrorReason, resource::Kind};

/// `accounts.v1.Opportunity`. A `PutOpportunity` finds an id taken only by another account.
pub const OPPORTUNITY: Kind = Kind {
    noun: "opportunity",
    not_found: ErrorReason::OpportunityNotFound,
    already_exists: ErrorReason::RecordOfAnotherAccount,
};

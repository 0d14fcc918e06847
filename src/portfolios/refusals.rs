//! The kind of resource, for errors on portfolios.

use crate::{proto::ErrorReason, resource::Kind};

/// `accounts.v1.Portfolio`
pub const PORTFOLIO: Kind = Kind {
    noun: "portfolio",
    not_found: ErrorReason::PortfolioNotFound,
    already_exists: ErrorReason::PortfolioAlreadyExists,
};

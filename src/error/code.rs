//! The gRPC code of each reason.

use tonic::Code;

use crate::proto::ErrorReason as Reason;

/// The code of errors with this reason. The comment of the reason in `errors.proto` begins with the
/// same code.
pub const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidField
        | Reason::InvalidPageToken
        | Reason::RequestIdReused
        | Reason::MalformedRequest
        | Reason::InvalidCursor
        | Reason::DuplicateRow => Code::InvalidArgument,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::PermissionDenied
        | Reason::WorkloadNotAllowed
        | Reason::ModuleNotActivated
        | Reason::OutOfReach => Code::PermissionDenied,
        Reason::AccountNotFound
        | Reason::AccountTypeNotFound
        | Reason::OrganizationNotFound
        | Reason::PersonNotFound
        | Reason::OrganizationMemberNotFound
        | Reason::OrganizationNotLinked
        | Reason::AccountUserNotFound
        | Reason::ContractNotFound
        | Reason::DeliverySetupNotFound
        | Reason::PortfolioNotFound
        | Reason::OpportunityNotFound
        | Reason::SubscriptionNotFound
        | Reason::OrderNotFound => Code::NotFound,
        Reason::AccountAlreadyExists
        | Reason::AccountTypeAlreadyExists
        | Reason::OrganizationAlreadyExists
        | Reason::PersonAlreadyExists
        | Reason::AccountUserAlreadyExists
        | Reason::ContractAlreadyExists
        | Reason::DeliverySetupAlreadyExists
        | Reason::PortfolioAlreadyExists
        | Reason::OrderAlreadyExists => Code::AlreadyExists,
        Reason::AccountTypeInactive
        | Reason::DefaultAccountTypeInactive
        | Reason::AccountStatusTransition
        | Reason::OrganizationTooDeep
        | Reason::OrganizationCycle
        | Reason::OrganizationNotEmpty
        | Reason::OwnOrganizationLinked
        | Reason::UserThroughOrganization
        | Reason::NotAnAccountUser
        | Reason::ContactMembershipEnds
        | Reason::ContactSlotHeld
        | Reason::PersonInactive
        | Reason::PersonNotStaff
        | Reason::PersonNotCustomer
        | Reason::PersonInUse
        | Reason::AccountNotActive
        | Reason::AccountInUse
        | Reason::ContractStateTransition
        | Reason::ContractTermsFixed
        | Reason::RecordOfAnotherAccount
        | Reason::ContractNotInForce
        | Reason::DeliverySetupStateTransition
        | Reason::DeliverySetupProjectFixed
        | Reason::DeliverySetupActive
        | Reason::ContractOfAnotherAccount
        | Reason::SubscriptionCancelled
        | Reason::PurchaserNotAllowed => Code::FailedPrecondition,
        Reason::EtagMismatch | Reason::Conflict | Reason::BatchRefused => Code::Aborted,
        Reason::RequestTooLarge | Reason::CursorExpired | Reason::ResponseTooLarge => {
            Code::OutOfRange
        }
        Reason::Overloaded => Code::ResourceExhausted,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::DatabaseUnavailable
        | Reason::IssuerUnavailable
        | Reason::WatchEnded
        | Reason::StreamEnded => Code::Unavailable,
        Reason::Unimplemented | Reason::UnsupportedEncoding => Code::Unimplemented,
        Reason::Unspecified | Reason::Internal => Code::Internal,
        Reason::OutcomeUnknown => Code::Unknown,
    }
}

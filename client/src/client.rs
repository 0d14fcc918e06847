//! One client for all services.

use std::str::FromStr as _;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tonic_types::StatusExt as _;

use crate::v1::{
    ErrorReason, account_service_client::AccountServiceClient,
    account_type_service_client::AccountTypeServiceClient,
    activity_service_client::ActivityServiceClient, commerce_service_client::CommerceServiceClient,
    contract_service_client::ContractServiceClient,
    membership_service_client::MembershipServiceClient,
    opportunity_service_client::OpportunityServiceClient,
    organization_service_client::OrganizationServiceClient,
    person_service_client::PersonServiceClient, portfolio_service_client::PortfolioServiceClient,
    tenant_service_client::TenantServiceClient,
};

/// Makes the client stub of each service from one channel, with the same metadata on every call.
/// Clones share the channel.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    caller: Caller,
}

/// Adds the metadata of a [`Client`] to every call.
#[derive(Debug, Clone, Default)]
pub struct Caller(MetadataMap);

/// A name or value cannot be sent as metadata: it is empty, or has characters that HTTP/2 headers
/// do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMetadata;

impl std::fmt::Display for InvalidMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name or value has characters that metadata cannot have")
    }
}

impl std::error::Error for InvalidMetadata {}

impl Client {
    /// A client whose calls carry no metadata yet.
    pub fn new(channel: Channel) -> Self {
        Self { channel, caller: Caller::default() }
    }

    /// Sends this bearer token with every call on the channel. Tokens expire: make a client with
    /// the next token before.
    ///
    /// # Errors
    /// If the token has characters that a header cannot have.
    pub fn with_token(self, token: &str) -> Result<Self, InvalidMetadata> {
        let mut value =
            MetadataValue::from_str(&format!("Bearer {token}")).map_err(|_| InvalidMetadata)?;
        value.set_sensitive(true);
        self.with("authorization", value)
    }

    /// Sends this metadata with every call on the channel, such as `x-tenant-id` to a service
    /// without credentials.
    ///
    /// # Errors
    /// If the name or the value has characters that a header cannot have.
    pub fn with_metadata(self, name: &str, value: &str) -> Result<Self, InvalidMetadata> {
        self.with(name, MetadataValue::from_str(value).map_err(|_| InvalidMetadata)?)
    }

    fn with(mut self, name: &str, value: MetadataValue<Ascii>) -> Result<Self, InvalidMetadata> {
        let name = MetadataKey::<Ascii>::from_str(name).map_err(|_| InvalidMetadata)?;
        self.caller.0.insert(name, value);
        Ok(self)
    }

    /// Accounts.
    pub fn accounts(&self) -> AccountServiceClient<InterceptedService<Channel, Caller>> {
        AccountServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Account types.
    pub fn account_types(&self) -> AccountTypeServiceClient<InterceptedService<Channel, Caller>> {
        AccountTypeServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// The activity trail.
    pub fn activities(&self) -> ActivityServiceClient<InterceptedService<Channel, Caller>> {
        ActivityServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Subscriptions, orders and recurring revenue.
    pub fn commerce(&self) -> CommerceServiceClient<InterceptedService<Channel, Caller>> {
        CommerceServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Contracts and delivery setups.
    pub fn contracts(&self) -> ContractServiceClient<InterceptedService<Channel, Caller>> {
        ContractServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Users, links and contacts of accounts.
    pub fn memberships(&self) -> MembershipServiceClient<InterceptedService<Channel, Caller>> {
        MembershipServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Opportunities.
    pub fn opportunities(&self) -> OpportunityServiceClient<InterceptedService<Channel, Caller>> {
        OpportunityServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Organizations and their members.
    pub fn organizations(&self) -> OrganizationServiceClient<InterceptedService<Channel, Caller>> {
        OrganizationServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// People.
    pub fn people(&self) -> PersonServiceClient<InterceptedService<Channel, Caller>> {
        PersonServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Portfolios.
    pub fn portfolios(&self) -> PortfolioServiceClient<InterceptedService<Channel, Caller>> {
        PortfolioServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }

    /// Settings and modules of the tenant.
    pub fn tenants(&self) -> TenantServiceClient<InterceptedService<Channel, Caller>> {
        TenantServiceClient::with_interceptor(self.channel.clone(), self.caller.clone())
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for entry in self.0.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(name, value) = entry {
                request.metadata_mut().insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// The reason of an error. `None` if the error does not come from the service, or has a reason that
/// is newer than this crate: decide by its gRPC code then.
pub fn reason(status: &Status) -> Option<ErrorReason> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == "accounts.v1")?;
    ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason))
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn reasons_are_read_from_errors_of_the_service_only() {
        let status = |reason: &str, domain: &str| {
            let details = ErrorDetails::with_error_info(
                reason,
                domain,
                [("account_id".to_owned(), "a".to_owned())],
            );
            Status::with_error_details(Code::NotFound, "no", details)
        };
        assert_eq!(
            reason(&status("ACCOUNT_NOT_FOUND", "accounts.v1")),
            Some(ErrorReason::AccountNotFound)
        );
        assert_eq!(reason(&status("ACCOUNT_NOT_FOUND", "billing.v1")), None);
        assert_eq!(reason(&status("OF_A_LATER_VERSION", "accounts.v1")), None);
        assert_eq!(reason(&Status::unavailable("connection refused")), None);
    }

    #[tokio::test]
    async fn metadata_is_checked_before_it_is_sent() {
        let client = Client::new(Channel::from_static("http://127.0.0.1:1").connect_lazy());
        assert!(client.clone().with_token("a.b.c").is_ok());
        assert_eq!(client.clone().with_token("a\nb").err(), Some(InvalidMetadata));
        assert_eq!(client.clone().with_metadata("x tenant", "demo").err(), Some(InvalidMetadata));
        let mut caller = client
            .with_metadata("x-tenant-id", "old")
            .unwrap()
            .with_metadata("x-tenant-id", "demo")
            .unwrap()
            .caller;
        let request = caller.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get_all("x-tenant-id").iter().collect::<Vec<_>>(), ["demo"]);
    }
}

//! The contract of Customer Accounts as Rust: the messages of `accounts.v1`, a tonic client stub
//! for each service, and [`Client`], which makes the stubs from one channel.
//!
//! ```no_run
//! use customer_accounts_client::{Client, reason, tonic::transport::Channel, v1};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = Channel::from_static("http://127.0.0.1:50051").connect_lazy();
//! let client = Client::new(channel).with_metadata("x-tenant-id", "demo")?;
//!
//! let request = v1::GetAccountRequest { account_id: "acct-acme".into() };
//! match client.accounts().get_account(request).await {
//!     Ok(response) => println!("{:?}", response.into_inner().account),
//!     Err(status) if reason(&status) == Some(v1::ErrorReason::AccountNotFound) => println!("there is no such account"),
//!     Err(status) => return Err(status.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! For TLS, depend on `tonic` with one of its features `tls-…`. For compressed messages, enable the
//! feature `gzip`.

mod client;

pub use prost_types;
pub use tonic;

pub use self::{
    accounts::v1,
    client::{Caller, Client, InvalidMetadata, reason},
};

/// The packages of the contract, nested as the generated code refers to them.
pub mod accounts {
    /// `accounts.v1`: messages, enums and client stubs.
    #[expect(
        unused_qualifications,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        reason = "generated from proto/, where every item is commented"
    )]
    pub mod v1 {
        tonic::include_proto!("accounts.v1");
    }
}

/// Google's common types.
pub mod google {
    /// `google.type`
    pub mod r#type {
        tonic::include_proto!("google.r#type");
    }
}

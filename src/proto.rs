//! The contract as Rust: messages and clients of `proto/accounts/v1`, which the crate
//! `customer-accounts-client` has, the server side of its services, and the descriptors behind
//! them.

use std::sync::LazyLock;

pub use customer_accounts_client::{accounts::v1::*, google};
use prost_reflect::DescriptorPool;

pub use self::server::*;

#[expect(
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where every item is commented"
)]
mod server {
    use customer_accounts_client::accounts::v1::*;

    tonic::include_proto!("accounts.v1");

    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
    include!(concat!(env!("OUT_DIR"), "/limits.rs"));
}

/// The encoded descriptor set: the services, their imports and the custom method options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The package all services live in; also the domain of `google.rpc.ErrorInfo`.
pub const PACKAGE: &str = "accounts.v1";

/// The descriptors, decoded once.
#[expect(
    clippy::expect_used,
    reason = "the bytes are made by build.rs and every test run decodes them"
)]
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS).expect("build.rs writes a valid descriptor set")
});

//! The contract as Rust: messages and clients of `proto/accounts/v1`, which the crate
//! `customer-accounts-client` has, the server side of its services, and the descriptors behind
//! them.

use std::sync::LazyLock;

pub use customer_accounts_client::{accounts::v1::*, google};
use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, Value};

pub use self::{behavior::FieldBehavior, server::*};

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

#[expect(clippy::doc_markdown, reason = "generated from a file of Google's")]
mod behavior {
    tonic::include_proto!("google.api");
}

/// The encoded descriptor set: the services, their imports, the custom method options and the
/// details of errors.
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

#[expect(
    clippy::expect_used,
    reason = "the contract imports the option and every test run reads it"
)]
static FIELD_BEHAVIOR: LazyLock<ExtensionDescriptor> = LazyLock::new(|| {
    POOL.get_extension_by_name("google.api.field_behavior").expect("the contract imports it")
});

/// What the contract says a field is to requests (AIP-203): its option `google.api.field_behavior`.
pub fn behaviors(field: &FieldDescriptor) -> Vec<FieldBehavior> {
    let options = field.options();
    let behaviors = options.get_extension(&FIELD_BEHAVIOR);
    let numbers = behaviors.as_list().into_iter().flatten().filter_map(Value::as_enum_number);
    numbers.filter_map(|number| FieldBehavior::try_from(number).ok()).collect()
}

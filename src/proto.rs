//! The contract as Rust: messages, clients and servers of `proto/accounts/v1`, and the descriptors behind them.

#![expect(
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where every item is commented"
)]

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// Packages nested as the generated code refers to them.
pub mod accounts {
    /// `accounts.v1`
    pub mod v1 {
        tonic::include_proto!("accounts.v1");

        include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
        include!(concat!(env!("OUT_DIR"), "/limits.rs"));
    }
}

/// Google's common types.
pub mod google {
    /// `google.type`
    pub mod r#type {
        tonic::include_proto!("google.r#type");
    }
}

pub use self::accounts::v1::*;

/// The encoded descriptor set: the services, their imports and the custom method options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The package all services live in; also the domain of `google.rpc.ErrorInfo`.
pub const PACKAGE: &str = "accounts.v1";

/// The descriptors, decoded once.
#[expect(clippy::expect_used, reason = "the bytes are made by build.rs and every test run decodes them")]
pub static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("build.rs writes a valid descriptor set"));

//! Customer Accounts: a multi-tenant gRPC service for the accounts of B2B customers and the people
//! on them.
//!
//! The modules stand in the direction of dependencies: `main` and `server` use the slices, and the
//! slices use the modules above them in this file. `docs/ARCHITECTURE.md` follows one request
//! through the code.

pub mod proto;
#[expect(missing_docs, reason = "the migrations comment every table and column")]
pub mod schema;

pub mod certificates;
pub mod codec;
pub mod currency;
pub mod encoded;
mod enums;
pub mod error;
pub mod id;
pub mod option_values;
pub mod resource;
pub mod search;
pub mod text;
pub mod validate;

pub mod caller;
pub mod mask;
pub mod policy;
pub mod roles;
pub mod share;
pub mod streams;
pub mod wire;

pub mod budget;
pub mod buffers;
pub mod db;
pub mod modules;
pub mod page;

pub mod batch;
pub mod call;
pub mod change;
pub mod metadata;
pub mod money;
pub mod put;
pub mod relations;
mod rows;

pub mod account_types;
pub mod accounts;
pub mod activities;
pub mod commerce;
pub mod contracts;
pub mod memberships;
pub mod opportunities;
pub mod organizations;
pub mod overview;
pub mod people;
pub mod portfolios;
pub mod tenants;
pub mod transfers;

pub mod answer;
pub mod config;
pub mod files;
pub mod guard;
pub mod gzip;
pub mod incoming;
mod late_data;
pub mod peer;
pub mod renew;
pub mod seed;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod transport;

#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, clippy::panic, reason = "a target fails by a panic")]
pub mod fuzzing;

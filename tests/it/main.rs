//! The integration tests: one binary that speaks gRPC to a running service.
//!
//! Without `TEST_DATABASE_URL` the service runs on the embedded PostgreSQL, with it on a fresh
//! database of that server. Each test works in a tenant of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test has no call whose deadline its tasks could outlive, and no config.rs"
)]
#![expect(clippy::too_many_lines, reason = "tables of cases are long")]

mod account_types;

mod accounts;
mod activities;
mod activity_plans;
mod alone;
mod backup;
mod bounds;
mod charge;
mod clients;
mod commerce;
mod compression;
mod contract;
mod contracts;
mod database_tls;
mod durability;
mod embedded;
mod exports;
mod failover;
mod files;
mod hot;
mod imports;
mod incarnations;
mod isolation;
mod lifecycle;
mod limits;
mod list_page;
mod lists;
mod logins;
mod masks;
mod membership_model;
mod membership_races;
mod memberships;
mod messages;
mod metrics;
mod module_calls;
mod module_model;
mod modules;
mod opportunities;
mod order;
mod organizations;
mod peers;
mod people;
mod plans;
mod portfolios;
mod pruning;
mod races;
mod reach;
mod readme;
mod renames;
mod renewals;
mod requests;
mod schema;
mod seed;
mod sessions;
mod settings;
mod shares;
mod skips;
mod support;
mod telemetry;
mod tenancy;
mod tenants;
mod text;
mod tls;
mod tokens;
mod trail;
mod transfers;
mod tree;
mod tree_races;
mod watch_storm;
mod watches;

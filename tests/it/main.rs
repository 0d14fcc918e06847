//! The integration tests: one binary that speaks gRPC to a running service.
//!
//! Without `TEST_DATABASE_URL` the service runs on the embedded PostgreSQL, with it on a fresh database of that server.
//! Each test works in a tenant of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

mod accounts;
mod readme;

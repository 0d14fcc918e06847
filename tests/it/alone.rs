//! Tests that measure the memory of the service, or how long other callers wait: beside the other
//! tests they would measure the machine. The gate runs them one at a time, after the others:
//! `.ci/postgres cargo test --test it -- alone:: --test-threads=1`.

mod floods;
mod growing_requests;
mod heavy_requests;
mod slow_reader;

const WHY: &str = "the embedded server is part of the process whose memory is measured";

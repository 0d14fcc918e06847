//! Fuzzes `certificate_header` of `src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| customer_accounts_fuzz::run("certificate_header", data));

//! Fuzzes `account` of `src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| customer_accounts_fuzz::run("account", data));

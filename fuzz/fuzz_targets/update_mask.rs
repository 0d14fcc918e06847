//! Fuzzes `update_mask` of `src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| customer_accounts_fuzz::run("update_mask", data));

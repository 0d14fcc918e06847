//! Fuzzes `import_rows` of `src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| customer_accounts_fuzz::run("import_rows", data));

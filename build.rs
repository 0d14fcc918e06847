//! Compiles the contract in `proto/` with a pure-Rust compiler: no protoc on the machine.
//!
//! Three things come out: the messages and services, the descriptor set (for reflection, policies and field masks), and
//! the traits that requests of one shape share: `db::Change` for what carries `request_id` and `validate_only`,
//! `page::Paged` for what carries `page_size` and `page_token`.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

#[expect(clippy::disallowed_methods, reason = "OUT_DIR is how cargo speaks to build scripts")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");

    let mut files = Vec::new();
    for entry in fs::read_dir("proto/accounts/v1")? {
        files.push(entry?.path());
    }
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // encode_file_descriptor_set keeps the custom method options, which file_descriptor_set() would lose.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let descriptors = compiler.file_descriptor_set();
    fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]).enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Implements the trait of each shape for every request message that has its fields.
fn shapes(descriptors: &prost_types::FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in descriptors.file.iter().filter(|file| file.package() == "accounts.v1").flat_map(|file| &file.message_type) {
        let name = message.name();
        let has = |wanted| message.field.iter().any(|field| field.name() == wanted);
        if has("request_id") && has("validate_only") {
            writeln!(
                code,
                "impl crate::db::Change for {name} {{\n    \
                 fn request_id(&self) -> &str {{ &self.request_id }}\n    \
                 fn validate_only(&self) -> bool {{ self.validate_only }}\n}}"
            )?;
        }
        if has("page_size") && has("page_token") {
            writeln!(
                code,
                "impl crate::page::Paged for {name} {{\n    \
                 fn take_page(&mut self) -> (i32, String) {{\n        \
                 (std::mem::take(&mut self.page_size), std::mem::take(&mut self.page_token))\n    }}\n    \
                 fn order_by(&self) -> i32 {{ self.order_by }}\n}}"
            )?;
        }
    }
    Ok(code)
}

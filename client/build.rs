//! Compiles the contract in `proto/` to messages and client stubs, with a compiler written in Rust:
//! no protoc on the machine.

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");

    let mut files = Vec::new();
    for entry in fs::read_dir("proto/accounts/v1")? {
        files.push(entry?.path());
    }
    files.sort();
    let descriptors = protox::compile(files, ["proto"])?;

    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]).enable_type_names();
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

//! What the programs in `fuzz_targets/` share. They are built by `cargo fuzz`, which sets
//! `cfg(fuzzing)`.

/// Runs a target of the service.
///
/// # Panics
///
/// If the target fails, or there is none of this name.
#[cfg(fuzzing)]
pub fn run(name: &str, data: &[u8]) {
    let targets = customer_accounts::fuzzing::TARGETS;
    let (_, target) = targets.iter().find(|(known, _)| *known == name).expect("a target");
    target(data);
}

//! What is fuzzed: for each kind of input that others choose, a function that takes any bytes. It
//! must not panic, and it checks what has to hold whatever the bytes are.
//!
//! `just fuzz` runs each target for a minute under libFuzzer (`fuzz/`). Every `cargo test` runs the
//! inputs in `fuzz/corpus/`, and some random changes of each.

mod request;

use std::sync::Arc;

use chrono::DateTime;
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _};
use prost_types::FieldMask;
use tokio::time::Instant;

use crate::{
    accounts::store::{Account, NewAccount},
    caller::{Caller, Reach, Roles, TenantId, fuzzing as callers},
    files::fuzzing as files,
    mask::Mask,
    page::Binding,
    proto::{self, CreateAccountRequest, FieldBehavior, ListAccountsRequest, POOL, behaviors},
    validate::Violations,
};

/// Something to fuzz.
pub type Target = fn(&[u8]);

/// All targets by their names, which are also the names of their corpora and of the programs in
/// `fuzz/fuzz_targets/`.
pub const TARGETS: [(&str, Target); 8] = [
    ("account", account),
    ("certificate_header", callers::certificate_header),
    ("import_rows", files::import_rows),
    ("page_token", page_token),
    ("request", request::request),
    ("token", callers::token),
    ("token_claims", callers::token_claims),
    ("update_mask", update_mask),
];

/// The bytes before the first NUL, and those behind it.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

/// A token as it is, and a position that is sealed. What was sealed opens to the same position,
/// under its own binding only and only as it is.
fn page_token(data: &[u8]) {
    let caller = |tenant: &str| Caller {
        tenant: TenantId::parse(tenant).expect("the id of a tenant"),
        actor: Arc::from("fuzz"),
        roles: Roles::default(),
        reach: Reach::Tenant,
        module: "customer_accounts",
        method: "accounts.v1.AccountService/ListAccounts",
        workload: None,
        deadline: Instant::now(),
        expires: None,
    };
    let (ours, theirs) = (caller("ours"), caller("theirs"));
    let filter = ListAccountsRequest { query: "acme".into(), ..Default::default() };
    let binding = Binding::of(&ours, &filter);
    let (token, position) = halves(data);
    let token = String::from_utf8_lossy(token);
    if let Some((key, id)) = binding.open(&token) {
        assert_eq!(binding.seal(&key, &id), token, "a token has one form");
    }
    let (key, id) = halves(position);
    if id.contains(&0) {
        return;
    }
    let (key, id) = (String::from_utf8_lossy(key), String::from_utf8_lossy(id));
    let sealed = binding.seal(&key, &id);
    assert_eq!(binding.open(&sealed), Some((key.into_owned(), id.into_owned())));
    for other in
        [Binding::of(&theirs, &filter), Binding::of(&ours, &ListAccountsRequest::default())]
    {
        assert_eq!(other.open(&sealed), None);
    }
    let mut damaged = sealed.into_bytes();
    let at = usize::from(data.first().copied().unwrap_or_default()) % damaged.len();
    damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).expect("base64");
    assert_eq!(binding.open(&damaged), None);
}

/// An encoded account, as a caller creates it. What is accepted is accepted again as the service
/// answers it, and means the same: nothing is lost or changed twice on the way through
/// normalization, JSON and back.
fn account(data: &[u8]) {
    let Ok(account) = proto::Account::decode(data) else { return };
    let parse = |account| {
        let mut v = Violations::default();
        let request = CreateAccountRequest { account: Some(account), ..Default::default() };
        let parsed = NewAccount::parse(&mut v, request);
        v.finish(parsed)
    };
    let Ok(NewAccount { account_id, fields, .. }) = parse(account) else { return };
    let row = Account {
        account_id: account_id.unwrap_or_else(|| "generated".into()),
        fields,
        revision: 1,
        create_time: DateTime::UNIX_EPOCH,
        update_time: DateTime::UNIX_EPOCH,
        incarnation: String::new(),
        folded: 1,
    };
    let answered = proto::Account::from(row.clone());
    let again = parse(answered).expect("what the service answers can be sent");
    assert_eq!(again.fields, row.fields);
}

/// Paths, a line each; NUL; in how many bytes the present account is encoded (two bytes); that
/// account; the wanted one. What the mask does not name stays, what it names as a whole is as
/// wanted, and an update that is made again changes nothing.
fn update_mask(data: &[u8]) {
    let (paths, rest) = halves(data);
    let Some((length, rest)) = rest.split_first_chunk() else { return };
    let Some((current, wanted)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else {
        return;
    };
    let (Ok(current), Ok(wanted)) =
        (proto::Account::decode(current), proto::Account::decode(wanted))
    else {
        return;
    };
    let paths: Vec<String> =
        String::from_utf8_lossy(paths).lines().map(ToOwned::to_owned).collect();
    let mut v = Violations::default();
    let mask = FieldMask { paths: paths.clone() };
    let Ok(mask) = Mask::parse(&mut v, &wanted, Some(mask), &[]) else { return };
    let merge = |v: &mut Violations, current: &proto::Account| {
        mask.apply(v, "account", current, &wanted).expect("two accounts can be merged")
    };
    let merged = merge(&mut v, &current);
    if v.finish(()).is_err() {
        return;
    }
    let again = merge(&mut Violations::default(), &merged);
    let dynamic = |account: &proto::Account| {
        let account = proto::Account::decode(&*account.encode_to_vec()).expect("an account");
        let descriptor = POOL.get_message_by_name("accounts.v1.Account").expect("is described");
        DynamicMessage::decode(descriptor, &*account.encode_to_vec()).expect("an account")
    };
    let (current, wanted) = (dynamic(&current), dynamic(&wanted));
    // Two numbers that are not numbers are never equal.
    if format!("{current:?}{wanted:?}").contains("NaN") {
        return;
    }
    let (merged, again) = (dynamic(&merged), dynamic(&again));
    assert_eq!(again, merged, "{paths:?}");
    for field in merged.descriptor().fields() {
        let is_whole = paths.iter().any(|path| path == field.name() || path == "*");
        let fixed =
            [FieldBehavior::Identifier, FieldBehavior::Immutable, FieldBehavior::OutputOnly];
        let is_fixed = field.name() == "etag"
            || behaviors(&field).iter().any(|behavior| fixed.contains(behavior));
        let is_named = mask.has(field.name());
        let is = merged.get_field(&field);
        if is_fixed || !is_named {
            assert_eq!(is, current.get_field(&field), "{} with {paths:?}", field.name());
        } else if is_whole {
            assert_eq!(is, wanted.get_field(&field), "{} with {paths:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
    };

    use super::TARGETS;

    /// How often each input of a corpus is changed.
    const CHANGES: usize = 20;

    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: std::path::PathBuf| (path.display().to_string(), fs::read(path).unwrap());
        entries.map(read).collect()
    }

    fn change(dice: &mut fastrand::Rng, input: &mut Vec<u8>) {
        for _ in 0..dice.usize(1..4) {
            let at = dice.usize(..=input.len());
            match dice.u8(..4) {
                0 => input.insert(at, dice.u8(..)),
                1 if at < input.len() => drop(input.remove(at)),
                2 if at < input.len() => input[at] = dice.u8(..),
                _ => input.extend_from_within(at..),
            }
        }
    }

    #[test]
    fn every_target_holds_for_its_corpus_and_for_changes_of_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "{name} has no corpus");
            for (path, input) in corpus {
                target(&input);
                let seed = fastrand::u64(..);
                let mut dice = fastrand::Rng::with_seed(seed);
                for _ in 0..CHANGES {
                    let mut changed = input.clone();
                    change(&mut dice, &mut changed);
                    let held = catch_unwind(AssertUnwindSafe(|| target(&changed)));
                    assert!(held.is_ok(), "{name} fails for {changed:?}, made from {path}");
                }
            }
        }
    }
}

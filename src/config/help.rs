//! The form of `--help`: headings, examples, and for each command the options that it uses. Also:
//! an empty variable counts as not set.
//!
//! Every option can be given before or after the command, and to every command, so that one set of
//! arguments or variables serves all of them. A command ignores the options that it does not use,
//! and its help does not show them.

use clap::{Arg, Command, builder::Resettable};

/// Options under a heading, and the commands other than `serve` and `check` that use them.
struct Group {
    heading: &'static str,
    commands: &'static [&'static str],
    options: &'static [&'static str],
}

const CALLING: &[&str] = &["healthcheck", "seed", "import", "export"];
const MIGRATING: &[&str] = &["migrate", "prune", "transfer"];

const GROUPS: &[Group] = &[
    Group { heading: "Address", commands: CALLING, options: &["listen"] },
    Group {
        heading: "Database",
        commands: MIGRATING,
        options: &["database_url", "migration_database_url"],
    },
    Group {
        heading: "Database",
        commands: &["migrate", "prune", "transfer", "token"],
        options: &["data_dir"],
    },
    Group {
        heading: "Database",
        commands: &[],
        options: &[
            "database_role",
            "allow_privileged_login",
            "migrate",
            "pool_size",
            "read_lanes",
            "pool_wait",
            "pool_max_lifetime",
            "lock_timeout",
            "idle_in_transaction_timeout",
            "slow_statement",
        ],
    },
    Group {
        heading: "TLS and workloads",
        commands: CALLING,
        options: &["tls_cert", "tls_key", "tls_client_ca", "client_cert", "client_key"],
    },
    Group {
        heading: "TLS and workloads",
        commands: &[],
        options: &["tls_reload_interval", "allowed_workloads", "mesh_header", "mesh_proxies"],
    },
    Group {
        heading: "Tokens",
        commands: &["token"],
        options: &["audiences", "tenant_claim", "roles_claim", "tenant_wide_claim"],
    },
    Group {
        heading: "Tokens",
        commands: &[],
        options: &[
            "issuers",
            "actor_prefixes",
            "leeway",
            "cache_size",
            "jwks_refresh",
            "jwks_floor",
            "jwks_max_stale",
            "jwks_max_waiting",
        ],
    },
    Group {
        heading: "Limits of calls",
        commands: &[],
        options: &[
            "max_calls",
            "tenant_share",
            "max_streams",
            "max_message_bytes",
            "max_buffered_bytes",
            "compress_above",
            "default_deadline",
            "max_deadline",
            "answer_timeout",
            "max_anonymous_calls",
            "max_transfers",
        ],
    },
    Group {
        heading: "Limits of connections",
        commands: &[],
        options: &[
            "max_connections",
            "max_connections_per_peer",
            "max_connection_idle",
            "max_connection_age",
            "max_connection_grace",
            "handshake_timeout",
        ],
    },
    Group {
        heading: "Activities and watches",
        commands: &["prune"],
        options: &["min_activity_retention"],
    },
    Group {
        heading: "Activities and watches",
        commands: &[],
        options: &[
            "max_watches",
            "watch_poll_interval",
            "watch_checkpoint_interval",
            "watch_max_age",
        ],
    },
    Group {
        heading: "Operation",
        commands: &[],
        options: &["shutdown_delay", "shutdown_deadline", "reflection", "metrics_listen"],
    },
    Group {
        heading: "Logs",
        commands: &[
            "migrate",
            "prune",
            "transfer",
            "healthcheck",
            "seed",
            "import",
            "export",
            "token",
        ],
        options: &["log", "log_format"],
    },
];

pub(super) const SERVE: &str = "\
Examples:
  customer-accounts
      Serve on 127.0.0.1:50051 without credentials, with an embedded PostgreSQL in ./data.
  customer-accounts migrate --database-url postgres://migrator:…@db/accounts
  customer-accounts serve --database-url postgres://service:…@db/accounts \\
      --listen 0.0.0.0:50051 --token-audience customer-accounts \\
      --token-issuer https://login.example=https://login.example/keys
      Migrate with one login and serve with another, for callers with a token of login.example.
  customer-accounts check
      Find out whether `serve` would start with these options and variables.

An empty variable counts as not set. OTEL_EXPORTER_OTLP_ENDPOINT and OpenTelemetry's other
variables configure traces and metrics. `customer-accounts COMMAND --help` shows the options of a
command.";

pub(super) const MIGRATE: &str = "\
Examples:
  customer-accounts migrate --database-url postgres://migrator:…@db/accounts
  customer-accounts migrate --revert 1";

pub(super) const TRANSFER: &str = "\
Examples:
  customer-accounts transfer --data-dir ./data --database-url postgres://migrator:…@db/accounts";

pub(super) const SEED: &str = "\
Examples:
  customer-accounts seed
  customer-accounts seed --listen accounts.internal:50051 --tls-cert tls.crt \\
      --token \"$(customer-accounts token)\"";

pub(super) const IMPORT: &str = "\
A CSV file has a header of field names:
  account_id,display_name,organization_id,status,primary_contact.email,billing_address.city
A line of JSON is an account, or as `export` writes it
  {\"account\": …, \"linked_organizations\": …, \"account_users\": …}
An empty cell and an absent key leave a field as it is; `null` and --empty clear
empty it. docs/IMPORT.md has every column and recipes.

Examples:
  customer-accounts import accounts.csv --dry-run
  customer-accounts import accounts.csv
  customer-accounts import accounts.csv --action update --all-or-nothing
  customer-accounts import crm.csv --ignore Owner --server https://accounts.example:50051

Ends with 0 if all rows are kept, 3 if some were refused, 2 if the command line or the header is
wrong and nothing was sent, 1 if it did not get to the end, and 130 if it was interrupted. If it has
begun and did not get to the end, it prints how to go on.";

pub(super) const EXPORT: &str = "\
Examples:
  customer-accounts export accounts.csv
  customer-accounts export names.csv --columns account_id,display_name
  customer-accounts export --organization org-1 --include-descendants
  customer-accounts export accounts.jsonl --with-links --with-users
  customer-accounts export accounts.jsonl --with-links --with-users --resume

FILE is complete or not there: what is not complete is FILE.part. JSON lines have everything, CSV
has no users. Ends with 0, with 1 if it did not get to the end, with 2 if the command line is wrong,
and with 130 if it was interrupted.";

pub(super) const TOKEN: &str = "\
Examples:
  customer-accounts token
  customer-accounts token --subject robin.stone --roles viewer";

pub(super) const DESCRIPTORS: &str = "\
Proxies that translate JSON, such as Envoy, and clients of a service without reflection need them.

Examples:
  customer-accounts descriptors accounts.binpb
  grpcurl -protoset accounts.binpb describe accounts.v1.AccountService";

/// Gives the options their headings, and hides the options that a command does not use from its
/// help.
pub(super) fn arrange(command: Command) -> Command {
    let command = command.mut_args(|arg| match group_of(&arg) {
        Some(group) => arg.help_heading(group.heading),
        None => arg,
    });
    let shared: Vec<Arg> =
        command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    command.mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_owned();
        let unused =
            shared.iter().filter(|arg| group_of(arg).is_some_and(|group| !group.is_used_by(&name)));
        // clap adds the other shared options to a command.
        subcommand.args(unused.map(|arg| arg.clone().hide(true)).collect::<Vec<_>>())
    })
}

fn group_of(arg: &Arg) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.options.contains(&arg.get_id().as_str()))
}

impl Group {
    fn is_used_by(&self, command: &str) -> bool {
        matches!(command, "serve" | "check") || self.commands.contains(&command)
    }
}

/// Makes an empty variable count as not set: `docker compose` and similar tools write `NAME=` for a
/// variable without a value.
pub(super) fn without_empty_variables(command: Command) -> Command {
    command.mut_args(unless_empty).mut_subcommands(without_empty_variables)
}

#[expect(clippy::disallowed_methods, reason = "this is part of config.rs")]
fn unless_empty(arg: Arg) -> Arg {
    let is_empty = arg
        .get_env()
        .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
    if is_empty { arg.env(Resettable::Reset) } else { arg }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{super::Cli, *};

    #[test]
    fn the_arranged_command_line_is_consistent() {
        arrange(Cli::command()).debug_assert();
    }

    #[test]
    fn every_option_has_its_group_and_every_group_its_options() {
        let command = Cli::command();
        let options: Vec<_> = command
            .get_arguments()
            .filter(|arg| arg.is_global_set())
            .map(|arg| arg.get_id().as_str())
            .collect();
        for option in &options {
            let groups = GROUPS.iter().filter(|group| group.options.contains(option)).count();
            assert_eq!(groups, 1, "{option} must be in one group of src/config/help.rs");
        }
        let commands: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        for group in GROUPS {
            assert!(
                group.options.iter().all(|option| options.contains(option)),
                "{:?}",
                group.options
            );
            assert!(
                group.commands.iter().all(|name| commands.contains(name)),
                "{:?}",
                group.commands
            );
        }
    }
}

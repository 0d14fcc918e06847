//! The resources of the example.

use crate::proto::{IntervalUnit, PortfolioItemState};

/// Id, name, description.
pub(super) const TYPES: [(&str, &str, &str); 6] = [
    ("enterprise", "Enterprise", "Large customers with an account manager of their own"),
    ("smb", "SMB", "Small and medium businesses"),
    ("trial", "Trial", "Trying out, not paying yet"),
    ("premium", "Premium", "Paying customers with extended service"),
    ("partner", "Partner", "Sell with us or for us"),
    ("reseller", "Reseller", "Buy from us and sell on"),
];

/// Id, name, parent.
pub(super) const ORGANIZATIONS: [(&str, &str, &str); 5] = [
    ("acme", "Acme Corp", ""),
    ("acme-emea", "Acme Corp EMEA", "acme"),
    ("acme-amer", "Acme Corp Americas", "acme"),
    ("acme-apac", "Acme Corp APAC", "acme"),
    ("globex", "Globex", ""),
];

/// The member of staff who manages the accounts of Acme.
pub(super) const MANAGER: &str = "staff-costa";

/// Id, name, subject of their tokens, and the organization that they are a member of. The staff are
/// members of none.
pub(super) const PEOPLE: [(&str, &str, &str, &str); 5] = [
    (MANAGER, "Ana Costa", "ana.costa", ""),
    ("acme-stone", "Robin Stone", "robin.stone", "acme"),
    ("acme-meier", "Chris Meier", "chris.meier", "acme-emea"),
    ("acme-silva", "Alex Silva", "alex.silva", "acme-amer"),
    ("globex-scorpio", "Hank Scorpio", "hank.scorpio", "globex"),
];

/// An account, and its billing contact, who also buys on it.
pub(super) const BILLING: [(&str, &str); 3] = [
    ("acct-acme", "acme-stone"),
    ("acct-acme-emea", "acme-meier"),
    ("acct-globex", "globex-scorpio"),
];

/// Id, name, organization, type, city, country.
pub(super) const ACCOUNTS: [(&str, &str, &str, &str, &str, &str); 5] = [
    ("acct-acme", "Acme Corporation", "acme", "enterprise", "New York", "US"),
    ("acct-acme-emea", "Acme Corp EMEA", "acme-emea", "enterprise", "Zürich", "CH"),
    ("acct-acme-amer", "Acme Corp Americas", "acme-amer", "enterprise", "São Paulo", "BR"),
    ("acct-acme-apac", "Acme Corp APAC", "acme-apac", "enterprise", "Singapore", "SG"),
    ("acct-globex", "Globex", "globex", "trial", "Springfield", "US"),
];

/// A contract of the example.
pub(super) struct ExampleContract {
    pub(super) id: &'static str,
    pub(super) account: &'static str,
    pub(super) title: &'static str,
    /// Whole euros.
    pub(super) euros: i64,
    /// Days from today to the end of the first term, which is a year.
    pub(super) ends_in: u64,
    /// Whether it renews, year by year, with a month's notice.
    pub(super) renews: bool,
    /// How far it has come.
    pub(super) stage: Stage,
}

/// How far a contract of the example has come.
#[derive(PartialEq, Eq)]
pub(super) enum Stage {
    Draft,
    InApproval,
    Approved,
}

/// The first renews, and the last day for a notice is 20 days away.
pub(super) const CONTRACTS: [ExampleContract; 3] = [
    ExampleContract {
        id: "ctr-emea-support",
        account: "acct-acme-emea",
        title: "Support 2nd line EMEA",
        euros: 48_000,
        ends_in: 50,
        renews: true,
        stage: Stage::Approved,
    },
    ExampleContract {
        id: "ctr-amer-rollout",
        account: "acct-acme-amer",
        title: "Rollout Americas",
        euros: 120_000,
        ends_in: 400,
        renews: false,
        stage: Stage::InApproval,
    },
    ExampleContract {
        id: "ctr-apac-pilot",
        account: "acct-acme-apac",
        title: "Pilot APAC",
        euros: 9_500,
        ends_in: 200,
        renews: false,
        stage: Stage::Draft,
    },
];

/// The delivery under the first contract.
pub(super) const SETUP: (&str, &str, &str) = ("dset-emea-support", "PRJ-1001", "managed-service");

/// The services of the account in Europe: id of the portfolio, account, name.
pub(super) const PORTFOLIO: (&str, &str, &str) =
    ("port-acme-emea", "acct-acme-emea", "Services of Acme EMEA");

/// Code, name and state of the services.
pub(super) const ITEMS: [(&str, &str, PortfolioItemState); 3] = [
    ("SUP-2", "Support 2nd line", PortfolioItemState::Active),
    ("MON", "Monitoring", PortfolioItemState::Planned),
    ("SUP-1", "Support 1st line", PortfolioItemState::Retired),
];

/// Id, account, name, the CRM's stage, whole euros, percent.
pub(super) const OPPORTUNITIES: [(&str, &str, &str, &str, i64, f64); 2] = [
    ("opp-apac-rollout", "acct-acme-apac", "Rollout APAC", "Proposal", 150_000, 40.0),
    ("opp-globex-support", "acct-globex", "Support for Globex", "Qualification", 30_000, 15.0),
];

/// A subscription of the example.
pub(super) struct ExampleSubscription {
    pub(super) id: &'static str,
    pub(super) account: &'static str,
    pub(super) name: &'static str,
    /// The code of a service.
    pub(super) code: &'static str,
    /// Whole units of the currency for each of so many, and the interval.
    pub(super) price: (i64, &'static str, i64, IntervalUnit),
    pub(super) discount_percent: f64,
    /// Days from now to the end of the trial.
    pub(super) trial_ends_in: Option<u64>,
}

/// The account in Europe comes to 1000.00 * 3 * 90 percent / 12 = 225.00 EUR a month, and to
/// 10 * 52 / 12 = 43.33, rounded 43 JPY. The trial does not count.
pub(super) const SUBSCRIPTIONS: [ExampleSubscription; 3] = [
    ExampleSubscription {
        id: "sub-emea-support",
        account: "acct-acme-emea",
        name: "Support 2nd line, 3 seats",
        code: "SUP-2",
        price: (1_000, "EUR", 3, IntervalUnit::Year),
        discount_percent: 10.0,
        trial_ends_in: None,
    },
    ExampleSubscription {
        id: "sub-emea-status-page",
        account: "acct-acme-emea",
        name: "Status page in Japan",
        code: "",
        price: (10, "JPY", 1, IntervalUnit::Week),
        discount_percent: 0.0,
        trial_ends_in: None,
    },
    ExampleSubscription {
        id: "sub-emea-monitoring",
        account: "acct-acme-emea",
        name: "Monitoring",
        code: "MON",
        price: (50, "EUR", 1, IntervalUnit::Month),
        discount_percent: 0.0,
        trial_ends_in: Some(14),
    },
];

/// Id, account, what was bought, whole euros.
pub(super) const ORDERS: [(&str, &str, &str, i64); 2] = [
    ("ord-emea-onboarding", "acct-acme-emea", "Onboarding", 1_500),
    ("ord-globex-workshop", "acct-globex", "Workshop", 900),
];

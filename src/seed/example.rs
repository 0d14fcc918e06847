//! The resources of the example.

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

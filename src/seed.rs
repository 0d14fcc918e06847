//! A small, realistic example in the tenant `demo`, made through the service itself.

use tonic::{Code, Request, Status, metadata::MetadataValue, service::interceptor::InterceptedService, transport::Channel};

use crate::proto::{
    Account, AccountType, AddOrganizationMemberRequest, Address, Contact, CreateAccountRequest, CreateAccountTypeRequest,
    CreateOrganizationRequest, CreatePersonRequest, LinkOrganizationRequest, Organization, Person, PersonKind,
    SetPurchasingAccountRequest, UpdateAccountRequest, account_service_client::AccountServiceClient,
    account_type_service_client::AccountTypeServiceClient, membership_service_client::MembershipServiceClient,
    organization_service_client::OrganizationServiceClient, person_service_client::PersonServiceClient,
};

const TENANT: &str = "demo";
const ACTOR: &str = "seed";

/// Id, name, description.
const TYPES: [(&str, &str, &str); 6] = [
    ("enterprise", "Enterprise", "Large customers with an account manager of their own"),
    ("smb", "SMB", "Small and medium businesses"),
    ("trial", "Trial", "Trying out, not paying yet"),
    ("premium", "Premium", "Paying customers with extended service"),
    ("partner", "Partner", "Sell with us or for us"),
    ("reseller", "Reseller", "Buy from us and sell on"),
];

/// Id, name, parent.
const ORGANIZATIONS: [(&str, &str, &str); 5] = [
    ("acme", "Acme Corp", ""),
    ("acme-emea", "Acme Corp EMEA", "acme"),
    ("acme-amer", "Acme Corp Americas", "acme"),
    ("acme-apac", "Acme Corp APAC", "acme"),
    ("globex", "Globex", ""),
];

/// The member of staff who manages the accounts of Acme.
const MANAGER: &str = "staff-costa";

/// Id, name, and the organization they are a member of; the staff are of none.
const PEOPLE: [(&str, &str, &str); 5] = [
    (MANAGER, "Ana Costa", ""),
    ("acme-stone", "Robin Stone", "acme"),
    ("acme-meier", "Chris Meier", "acme-emea"),
    ("acme-silva", "Alex Silva", "acme-amer"),
    ("globex-scorpio", "Hank Scorpio", "globex"),
];

/// Account, its billing contact, who buys on it.
const BILLING: [(&str, &str, &str); 3] = [
    ("acct-acme", "acme-stone", "acme-stone"),
    ("acct-acme-emea", "acme-meier", "acme-meier"),
    ("acct-globex", "globex-scorpio", "globex-scorpio"),
];

/// Id, name, organization, type, city, country.
const ACCOUNTS: [(&str, &str, &str, &str, &str, &str); 5] = [
    ("acct-acme", "Acme Corporation", "acme", "enterprise", "New York", "US"),
    ("acct-acme-emea", "Acme Corp EMEA", "acme-emea", "enterprise", "Zürich", "CH"),
    ("acct-acme-amer", "Acme Corp Americas", "acme-amer", "enterprise", "São Paulo", "BR"),
    ("acct-acme-apac", "Acme Corp APAC", "acme-apac", "enterprise", "Singapore", "SG"),
    ("acct-globex", "Globex", "globex", "trial", "Springfield", "US"),
];

/// What was made, and what was there already.
#[derive(Debug, Default)]
pub struct Seeded {
    /// Resources made now.
    pub created: usize,
    /// Resources that an earlier run, or someone else, has made.
    pub kept: usize,
}

/// Fills the tenant, as the caller of the token if there is one. What is there already stays as it is, so it can be run again.
pub async fn seed(channel: Channel, token: Option<&str>) -> Result<Seeded, Status> {
    let bearer: Option<MetadataValue<_>> = token
        .map(|token| format!("Bearer {token}").parse())
        .transpose()
        .map_err(|_| Status::unauthenticated("--token takes a token as `customer-accounts token` prints it"))?;
    let channel = InterceptedService::new(channel, move |mut request: Request<()>| {
        if let Some(bearer) = &bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    });
    let mut seeded = Seeded::default();
    let mut types = AccountTypeServiceClient::new(channel.clone());
    for (id, name, description) in TYPES {
        let account_type = AccountType {
            account_type_id: id.into(),
            display_name: name.into(),
            description: description.into(),
            is_default: id == "smb",
            ..Default::default()
        };
        let request = CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
        seeded.count(types.create_account_type(as_seed(request)).await)?;
    }
    let mut organizations = OrganizationServiceClient::new(channel.clone());
    for (id, name, parent) in ORGANIZATIONS {
        let organization = Organization {
            organization_id: id.into(),
            display_name: name.into(),
            parent_id: parent.into(),
            ..Default::default()
        };
        let request = CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        seeded.count(organizations.create_organization(as_seed(request)).await)?;
    }
    let mut people = PersonServiceClient::new(channel.clone());
    for (id, name, organization) in PEOPLE {
        let kind = if organization.is_empty() { PersonKind::Staff } else { PersonKind::Customer };
        let person = Person {
            person_id: id.into(),
            display_name: name.into(),
            email: format!("{id}@people.example"),
            kind: kind.into(),
            ..Default::default()
        };
        let request = CreatePersonRequest { person: Some(person), ..Default::default() };
        let made = seeded.count(people.create_person(as_seed(request)).await)?;
        if made && !organization.is_empty() {
            let member =
                AddOrganizationMemberRequest { organization_id: organization.into(), person_id: id.into(), ..Default::default() };
            organizations.add_organization_member(as_seed(member)).await?;
        }
    }
    let mut accounts = AccountServiceClient::new(channel.clone());
    for (id, name, organization, account_type, city, country) in ACCOUNTS {
        let account = Account {
            account_id: id.into(),
            display_name: name.into(),
            organization_id: organization.into(),
            account_type_id: account_type.into(),
            is_primary: true,
            account_manager_id: if id.starts_with("acct-acme") { MANAGER.into() } else { String::new() },
            primary_contact: Some(Contact {
                name: format!("{name} Purchasing"),
                email: format!("purchasing@{organization}.example"),
                ..Default::default()
            }),
            billing_address: Some(Address { city: city.into(), country: country.into(), ..Default::default() }),
            ..Default::default()
        };
        let request = CreateAccountRequest { account: Some(account), ..Default::default() };
        let made = seeded.count(accounts.create_account(as_seed(request)).await)?;
        if made && account_type == "trial" {
            accounts.update_account(as_seed(converted(id))).await?;
        }
    }
    // Again changes nothing.
    let mut memberships = MembershipServiceClient::new(channel);
    let link = LinkOrganizationRequest {
        account_id: "acct-acme".into(),
        organization_id: "acme".into(),
        include_descendants: true,
        ..Default::default()
    };
    memberships.link_organization(as_seed(link)).await?;
    for (account, contact, buyer) in BILLING {
        let account = Account { account_id: account.into(), billing_contact_id: contact.into(), ..Default::default() };
        let purchasing =
            SetPurchasingAccountRequest { person_id: buyer.into(), account_id: account.account_id.clone(), ..Default::default() };
        let request = UpdateAccountRequest { account: Some(account), ..Default::default() };
        accounts.update_account(as_seed(request)).await?;
        memberships.set_purchasing_account(as_seed(purchasing)).await?;
    }
    Ok(seeded)
}

/// The trial that became a customer.
fn converted(id: &str) -> UpdateAccountRequest {
    let account = Account {
        account_id: id.into(),
        account_type_id: "premium".into(),
        comment: "Converted from a trial".into(),
        ..Default::default()
    };
    UpdateAccountRequest { account: Some(account), ..Default::default() }
}

impl Seeded {
    /// Counts an answer; whether the resource was made now.
    fn count<T>(&mut self, answer: Result<T, Status>) -> Result<bool, Status> {
        match answer {
            Ok(_) => self.created += 1,
            Err(status) if status.code() == Code::AlreadyExists => {
                self.kept += 1;
                return Ok(false);
            }
            Err(status) => return Err(status),
        }
        Ok(true)
    }
}

fn as_seed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in [("x-tenant-id", TENANT), ("x-actor", ACTOR)] {
        request.metadata_mut().insert(name, MetadataValue::from_static(value));
    }
    request
}

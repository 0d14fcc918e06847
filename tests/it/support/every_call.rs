//! A valid request of every call of the contract, for the tests that hold for all of them.

use std::collections::BTreeMap;

use customer_accounts::proto::{
    Account, AccountType, CreateAccountTypeRequest, CreateOrganizationRequest, Opportunity, Order,
    Organization, PACKAGE, POOL, Portfolio, PortfolioItemState, Subscription,
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::{Value, json};

use super::{
    Tenant, account,
    commerce::{order, subscription},
    contracts::{contract, setup},
    sales::{item, opportunity, portfolio},
};

/// Stands in a request for the id of a resource. [`everything`] makes one of each kind under an id.
const ID: &str = "<id>";
/// Stands for the id of a resource that is never the one in question.
const OTHER: &str = "<other>";

/// What becomes of a call if something that its request names does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// The call fails with `NOT_FOUND`.
    Fails,
    /// The list is empty: what it names is a filter.
    Empty,
}

use Missing::{Empty, Fails};

/// Every call with its requests, of which some have several: what one names may exclude another.
fn requests() -> Vec<(&'static str, Missing, Value)> {
    let email = json!({"email": "qq@qq.example"});
    let create = |account: Value| {
        let account = with(account, json!({"display_name": "n", "organization_id": OTHER}));
        json!({"account": account})
    };
    let update = |account: Value| json!({"account": with(account, json!({"account_id": OTHER}))});
    let (account, user) = (json!({"account_id": ID}), json!({"account_id": ID, "person_id": ID}));
    let (other, link) = (
        json!({"account_id": OTHER, "person_id": OTHER}),
        json!({"account_id": ID, "organization_id": ID}),
    );
    let (organization, member) =
        (json!({"organization_id": ID}), json!({"organization_id": ID, "person_id": ID}));
    let person = json!({"person_id": ID});
    let (contract, setup) = (json!({"contract_id": ID}), json!({"delivery_setup_id": ID}));
    let (portfolio, opportunity) = (json!({"portfolio_id": ID}), json!({"opportunity_id": ID}));
    let (subscription, order) = (json!({"subscription_id": ID}), json!({"order_id": ID}));
    let account_type = json!({"account_type_id": ID});
    let metadata = json!({"metadata": {"id": ID}});
    let below = json!({"organization_id": ID, "include_descendants": true});
    vec![
        (
            "AccountService/CreateAccount",
            Fails,
            create(json!({
                "primary_contact": email,
                "organization_id": ID,
                "account_type_id": ID,
                "account_manager_id": ID,
            })),
        ),
        ("AccountService/CreateAccount", Fails, create(json!({"primary_contact": person}))),
        (
            "AccountService/CreateAccount",
            Fails,
            create(json!({"primary_contact": email, "billing_contact_id": ID})),
        ),
        ("AccountService/GetAccount", Fails, account.clone()),
        ("AccountService/GetAccountOverview", Fails, account.clone()),
        ("AccountService/BatchGetAccounts", Fails, json!({"account_ids": [ID, ID]})),
        (
            "AccountService/ImportAccounts",
            Fails,
            json!({"rows": [create(json!({
                "primary_contact": email,
                "organization_id": ID,
                "account_type_id": ID,
                "account_manager_id": ID,
            }))]}),
        ),
        (
            "AccountService/ImportAccounts",
            Fails,
            json!({"rows": [create(json!({"primary_contact": person}))]}),
        ),
        (
            "AccountService/ImportAccounts",
            Fails,
            json!({"rows": [update(json!({"organization_id": ID}))]}),
        ),
        (
            "AccountService/ImportAccounts",
            Fails,
            json!({
                "action": "IMPORT_ACTION_UPDATE",
                "rows": [{
                    "account": {"account_id": ID, "comment": "c"},
                    "linked_organizations": [{"organization_id": ID, "include_descendants": true}],
                    "account_users": [{"person_id": ID}],
                }],
            }),
        ),
        ("AccountService/ExportAccounts", Empty, organization.clone()),
        ("AccountService/ExportAccounts", Empty, account_type.clone()),
        ("AccountService/ExportAccounts", Empty, json!({"account_manager_id": ID})),
        ("AccountService/ExportAccounts", Empty, below.clone()),
        ("AccountService/ListAccounts", Empty, json!({"include_total_size": true})),
        ("AccountService/ListAccounts", Empty, json!({"statuses": [1, 2, 3]})),
        ("AccountService/ListAccounts", Empty, json!({"is_primary": false})),
        ("AccountService/ListAccounts", Empty, json!({"query": ID})),
        ("AccountService/ListAccounts", Empty, metadata.clone()),
        ("AccountService/ListAccounts", Empty, account_type.clone()),
        ("AccountService/ListAccounts", Empty, json!({"account_manager_id": ID})),
        ("AccountService/ListAccounts", Empty, person.clone()),
        ("AccountService/ListAccounts", Empty, organization.clone()),
        ("AccountService/ListAccounts", Empty, below.clone()),
        ("AccountService/ListAccounts", Empty, json!({"linked_organization_id": ID})),
        (
            "AccountService/UpdateAccount",
            Fails,
            json!({"account": {
                "account_id": ID,
                "comment": "c",
                "organization_id": ID,
                "account_type_id": ID,
                "account_manager_id": ID,
            }}),
        ),
        ("AccountService/UpdateAccount", Fails, update(json!({"cc_billing_contact_id": ID}))),
        ("AccountService/DeleteAccount", Fails, account.clone()),
        ("AccountService/DeleteAccount", Fails, json!({"account_id": ID, "force": true})),
        (
            "AccountTypeService/CreateAccountType",
            Fails,
            json!({"account_type": {"display_name": "n"}}),
        ),
        ("AccountTypeService/GetAccountType", Fails, account_type.clone()),
        ("AccountTypeService/BatchGetAccountTypes", Fails, json!({"account_type_ids": [ID, ID]})),
        ("AccountTypeService/ListAccountTypes", Empty, json!({"show_inactive": true})),
        ("AccountTypeService/ListAccountTypes", Empty, json!({"display_name": ID})),
        (
            "AccountTypeService/UpdateAccountType",
            Fails,
            json!({"account_type": {"account_type_id": ID, "description": "d"}}),
        ),
        ("AccountTypeService/DeactivateAccountType", Fails, account_type),
        ("ActivityService/ListActivities", Empty, json!({})),
        ("ActivityService/ListActivities", Empty, json!({"actor": "tester"})),
        ("ActivityService/ListActivities", Empty, account.clone()),
        (
            "ActivityService/ListActivities",
            Empty,
            json!({"resource_type": "person", "resource_id": ID}),
        ),
        (
            "CommerceService/PutSubscription",
            Fails,
            json!({"subscription": {
                "subscription_id": "new",
                "account_id": ID,
                "display_name": "n",
                "unit_amount": {"currency_code": "EUR", "units": 1},
                "interval": 3,
                "start_time": "2026-01-01T00:00:00Z",
                "contract_id": ID,
            }}),
        ),
        ("CommerceService/GetSubscription", Fails, subscription.clone()),
        ("CommerceService/BatchGetSubscriptions", Fails, json!({"subscription_ids": [ID, ID]})),
        ("CommerceService/CancelSubscription", Fails, subscription.clone()),
        ("CommerceService/UncancelSubscription", Fails, subscription),
        ("CommerceService/ListSubscriptions", Empty, json!({"include_total_size": true})),
        ("CommerceService/ListSubscriptions", Empty, json!({"states": [1, 2, 3, 4, 5, 6]})),
        ("CommerceService/ListSubscriptions", Empty, contract.clone()),
        ("CommerceService/ListSubscriptions", Empty, account.clone()),
        ("CommerceService/ListSubscriptions", Empty, organization.clone()),
        ("CommerceService/ListSubscriptions", Empty, below.clone()),
        (
            "CommerceService/RecordOrder",
            Fails,
            json!({"purchaser_checked": true, "order": {
                "order_id": "new",
                "account_id": ID,
                "purchaser_id": ID,
                "amount": {"currency_code": "EUR", "units": 1},
                "contract_id": ID,
            }}),
        ),
        ("CommerceService/GetOrder", Fails, order.clone()),
        ("CommerceService/BatchGetOrders", Fails, json!({"order_ids": [ID, ID]})),
        ("CommerceService/CancelOrder", Fails, order),
        ("CommerceService/ListOrders", Empty, json!({"include_total_size": true})),
        ("CommerceService/ListOrders", Empty, json!({"states": [1]})),
        ("CommerceService/ListOrders", Empty, json!({"purchaser_id": ID})),
        ("CommerceService/ListOrders", Empty, contract.clone()),
        ("CommerceService/ListOrders", Empty, account.clone()),
        ("CommerceService/ListOrders", Empty, organization.clone()),
        ("CommerceService/ListOrders", Empty, below.clone()),
        ("CommerceService/CalculateRecurringRevenue", Fails, account.clone()),
        ("CommerceService/CalculateRecurringRevenue", Fails, below.clone()),
        (
            "ContractService/CreateContract",
            Fails,
            json!({"contract": {"account_id": ID, "title": "t"}}),
        ),
        ("ContractService/GetContract", Fails, contract.clone()),
        ("ContractService/BatchGetContracts", Fails, json!({"contract_ids": [ID, ID]})),
        ("ContractService/ListContracts", Empty, json!({"include_total_size": true})),
        ("ContractService/ListContracts", Empty, json!({"states": [1, 2, 3, 4]})),
        ("ContractService/ListContracts", Empty, json!({"query": ID})),
        ("ContractService/ListContracts", Empty, account.clone()),
        ("ContractService/ListContracts", Empty, organization.clone()),
        ("ContractService/ListContracts", Empty, below.clone()),
        (
            "ContractService/UpdateContract",
            Fails,
            json!({"contract": with(contract.clone(), json!({"description": "d"}))}),
        ),
        ("ContractService/SubmitContract", Fails, contract.clone()),
        ("ContractService/ApproveContract", Fails, contract.clone()),
        ("ContractService/RejectContract", Fails, contract.clone()),
        ("ContractService/VoidContract", Fails, contract.clone()),
        ("ContractService/CancelContract", Fails, contract.clone()),
        ("ContractService/UncancelContract", Fails, contract.clone()),
        ("ContractService/TerminateContract", Fails, contract.clone()),
        (
            "ContractService/CreateDeliverySetup",
            Fails,
            json!({"delivery_setup":
                {"contract_id": ID, "project_id": "new", "delivery_model": "m"}}),
        ),
        ("ContractService/GetDeliverySetup", Fails, setup.clone()),
        ("ContractService/BatchGetDeliverySetups", Fails, json!({"delivery_setup_ids": [ID, ID]})),
        ("ContractService/ListDeliverySetups", Empty, json!({"states": [1]})),
        ("ContractService/ListDeliverySetups", Empty, json!({"project_id": ID})),
        ("ContractService/ListDeliverySetups", Empty, contract.clone()),
        ("ContractService/ListDeliverySetups", Empty, account.clone()),
        ("ContractService/ListDeliverySetups", Empty, organization.clone()),
        ("ContractService/ListDeliverySetups", Empty, below.clone()),
        (
            "ContractService/UpdateDeliverySetup",
            Fails,
            json!({"delivery_setup": with(setup.clone(), json!({"description": "d"}))}),
        ),
        ("ContractService/DeleteDeliverySetup", Fails, setup),
        // With this cursor the watch ends at once; tests/it/watches.rs has those that go on.
        ("ActivityService/WatchActivities", Fails, json!({"cursor": "none"})),
        ("MembershipService/AddAccountUser", Fails, user.clone()),
        (
            "MembershipService/UpdateAccountUser",
            Fails,
            json!({"account_user": with(user.clone(), json!({"billing": true}))}),
        ),
        ("MembershipService/RemoveAccountUser", Fails, user.clone()),
        (
            "MembershipService/ListAccountUsers",
            Fails,
            json!({"account_id": ID, "show_not_in_force": true}),
        ),
        ("MembershipService/LinkOrganization", Fails, link.clone()),
        ("MembershipService/UnlinkOrganization", Fails, link),
        ("MembershipService/ListLinkedOrganizations", Fails, account.clone()),
        ("MembershipService/ListBillingRecipients", Fails, account.clone()),
        ("MembershipService/SetPurchasingAccount", Fails, user.clone()),
        ("MembershipService/SetPurchasingAccount", Fails, person.clone()),
        ("MembershipService/CheckMembership", Fails, user.clone()),
        ("MembershipService/BatchCheckMemberships", Fails, json!({"requests": [other, user]})),
        ("MembershipService/ListPersonAccounts", Fails, person.clone()),
        (
            "OpportunityService/PutOpportunity",
            Fails,
            json!({"opportunity": {
                "opportunity_id": "new",
                "account_id": ID,
                "display_name": "n",
                "contract_id": ID,
                "owner_id": ID,
            }}),
        ),
        ("OpportunityService/GetOpportunity", Fails, opportunity.clone()),
        ("OpportunityService/BatchGetOpportunities", Fails, json!({"opportunity_ids": [ID, ID]})),
        ("OpportunityService/ListOpportunities", Empty, json!({"include_total_size": true})),
        ("OpportunityService/ListOpportunities", Empty, json!({"states": [1, 2]})),
        ("OpportunityService/ListOpportunities", Empty, json!({"query": ID})),
        ("OpportunityService/ListOpportunities", Empty, contract),
        ("OpportunityService/ListOpportunities", Empty, account.clone()),
        ("OpportunityService/ListOpportunities", Empty, organization.clone()),
        ("OpportunityService/ListOpportunities", Empty, below.clone()),
        ("OpportunityService/DeleteOpportunity", Fails, opportunity),
        (
            "OrganizationService/CreateOrganization",
            Fails,
            json!({"organization": {"display_name": "n", "parent_id": ID}}),
        ),
        ("OrganizationService/GetOrganization", Fails, organization.clone()),
        ("OrganizationService/BatchGetOrganizations", Fails, json!({"organization_ids": [ID, ID]})),
        ("OrganizationService/ListOrganizations", Empty, json!({})),
        (
            "OrganizationService/ListOrganizations",
            Empty,
            json!({"roots_only": true, "include_total_size": true}),
        ),
        ("OrganizationService/ListOrganizations", Empty, json!({"query": ID})),
        ("OrganizationService/ListOrganizations", Empty, metadata),
        ("OrganizationService/ListOrganizations", Empty, person.clone()),
        ("OrganizationService/ListOrganizations", Empty, json!({"parent_id": ID})),
        (
            "OrganizationService/UpdateOrganization",
            Fails,
            json!({"organization": {"organization_id": ID, "display_name": "n"}}),
        ),
        ("OrganizationService/MoveOrganization", Fails, organization.clone()),
        (
            "OrganizationService/MoveOrganization",
            Fails,
            json!({"organization_id": ID, "parent_id": ID}),
        ),
        ("OrganizationService/DeleteOrganization", Fails, organization.clone()),
        ("OrganizationService/AddOrganizationMember", Fails, member.clone()),
        ("OrganizationService/RemoveOrganizationMember", Fails, member),
        ("OrganizationService/ListOrganizationMembers", Fails, below.clone()),
        (
            "PortfolioService/CreatePortfolio",
            Fails,
            json!({"portfolio": {"account_id": ID, "display_name": "n"}}),
        ),
        ("PortfolioService/GetPortfolio", Fails, portfolio.clone()),
        ("PortfolioService/BatchGetPortfolios", Fails, json!({"portfolio_ids": [ID, ID]})),
        ("PortfolioService/ListPortfolios", Empty, json!({"include_total_size": true})),
        ("PortfolioService/ListPortfolios", Empty, json!({"item_states": [1, 2]})),
        ("PortfolioService/ListPortfolios", Empty, json!({"item_code": ID})),
        ("PortfolioService/ListPortfolios", Empty, json!({"query": ID})),
        ("PortfolioService/ListPortfolios", Empty, account.clone()),
        ("PortfolioService/ListPortfolios", Empty, organization.clone()),
        ("PortfolioService/ListPortfolios", Empty, below.clone()),
        (
            "PortfolioService/UpdatePortfolio",
            Fails,
            json!({"portfolio": with(portfolio.clone(), json!({"description": "d"}))}),
        ),
        ("PortfolioService/DeletePortfolio", Fails, portfolio),
        (
            "PersonService/CreatePerson",
            Fails,
            json!({"person": {"display_name": "n"}, "organization_id": ID}),
        ),
        ("PersonService/GetPerson", Fails, person.clone()),
        ("PersonService/BatchGetPeople", Fails, json!({"person_ids": [ID, ID]})),
        ("PersonService/ListPeople", Empty, json!({})),
        ("PersonService/ListPeople", Empty, json!({"kind": "PERSON_KIND_STAFF"})),
        ("PersonService/ListPeople", Empty, json!({"query": ID})),
        ("PersonService/ListPeople", Empty, organization.clone()),
        ("PersonService/ListPeople", Empty, below),
        (
            "PersonService/UpdatePerson",
            Fails,
            json!({"person": with(person.clone(), json!({"phone": "1"}))}),
        ),
        ("PersonService/DeletePerson", Fails, person),
        ("TenantService/GetTenantSettings", Fails, json!({})),
        ("TenantService/UpdateTenantSettings", Fails, json!({"tenant_settings": {}})),
        (
            "TenantService/SetModuleActivation",
            Fails,
            json!({"module": "contracts", "setting": "MODULE_SETTING_INHERITED", "organization_id": ID}),
        ),
        ("TenantService/ListModuleActivations", Fails, organization),
    ]
}

/// A message with the fields that another has besides; those of the first count.
fn with(mut message: Value, others: Value) -> Value {
    let (Value::Object(fields), Value::Object(others)) = (&mut message, others) else {
        panic!("{message} is no message");
    };
    for (name, value) in others {
        fields.entry(name).or_insert(value);
    }
    message
}

/// A request that names one resource in question.
#[derive(Debug)]
pub struct Ask {
    /// `AccountService/GetAccount`
    pub method: &'static str,
    missing: Missing,
    /// The field in which the request names it: `/account/organization_id`. Empty if the request
    /// names no resource.
    path: String,
    request: Value,
}

impl Ask {
    /// The name of the field in which the request names the resource: `organization_id`. Empty if
    /// it names none.
    pub fn field(&self) -> &str {
        self.path.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap_or_default()
    }

    /// The request, encoded.
    pub fn encoded(&self) -> Vec<u8> {
        let message = DynamicMessage::deserialize(descriptor(self.method).input(), &self.request);
        message.unwrap_or_else(|error| panic!("{}: {error}", self.method)).encode_to_vec()
    }

    /// This request with `validate_only`, if the call has that.
    pub fn validating(self) -> Self {
        let has = descriptor(self.method).input().get_field_by_name("validate_only").is_some();
        let request =
            if has { with(self.request, json!({"validate_only": true})) } else { self.request };
        Self { request, ..self }
    }

    /// This request with an etag that no resource has, if it asks to change the resource in
    /// question.
    fn with_other_etag(&self) -> Option<Self> {
        let (parent, field) = self.path.rsplit_once('/')?;
        let input = descriptor(self.method).input();
        let message = match parent.strip_prefix('/') {
            None => input,
            Some(resource) => input.get_field_by_name(resource)?.kind().as_message()?.clone(),
        };
        message.get_field_by_name("etag")?;
        (message.get_field_by_name(field)?.number() == 1).then_some(())?;
        let mut request = self.request.clone();
        request.pointer_mut(parent)?["etag"] = "no such etag".into();
        Some(Self { request, path: self.path.clone(), ..*self })
    }
}

/// Every request of every call, once for each of its fields that name a resource: that field has
/// `id`, and the others have `other`. A request that names none is there once.
pub fn naming(id: &str, other: &str) -> Vec<Ask> {
    let mut asks = Vec::new();
    for (method, missing, request) in requests() {
        let mut found = Vec::new();
        paths(&request, String::new(), &mut found);
        if found.is_empty() {
            found.push(String::new());
        }
        for path in found {
            let mut request = request.clone();
            if !path.is_empty() {
                *request.pointer_mut(&path).unwrap() = id.into();
            }
            replace(&mut request, other);
            asks.push(Ask { method, missing, path, request });
        }
    }
    asks
}

/// Appends the paths of all [`ID`]s in a request.
fn paths(request: &Value, at: String, found: &mut Vec<String>) {
    match request {
        Value::String(text) if text == ID => found.push(at),
        Value::Object(fields) => {
            for (name, value) in fields {
                paths(value, format!("{at}/{name}"), found);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                paths(value, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Puts an id in place of every [`ID`] and [`OTHER`] that is left.
fn replace(request: &mut Value, id: &str) {
    match request {
        Value::String(text) if [ID, OTHER].contains(&&**text) => id.clone_into(text),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, id)),
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, id)),
        _ => {}
    }
}

/// Every call that fails with `NOT_FOUND` if there is no resource `id`, in every way to name it;
/// all other resources that the requests name have the id `own`.
pub fn asks_for(id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let asks = naming(id, "own").into_iter();
    let asks = asks.filter(|ask| ask.missing == Fails && !ask.path.is_empty());
    asks.flat_map(|ask| [ask.with_other_etag(), Some(ask)])
        .flatten()
        .map(|ask| (ask.method, ask.encoded()))
        .collect()
}

/// Every list that shows what the caller may see, without filters and with each filter that names a
/// resource `id`.
pub fn lists(id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let asks = naming(id, id).into_iter().filter(|ask| ask.missing == Empty);
    asks.map(|ask| (ask.method, ask.encoded())).collect()
}

/// The method of a call that is named as `AccountService/GetAccount`.
pub fn descriptor(method: &str) -> MethodDescriptor {
    let (service, name) = method.split_once('/').unwrap();
    let service = POOL.get_service_by_name(&format!("{PACKAGE}.{service}")).unwrap();
    service.methods().find(|method| method.name() == name).unwrap()
}

/// One of each resource under this id.
pub async fn everything(tenant: &Tenant, id: &str) {
    let metadata = || BTreeMap::from([("id".to_owned(), id.to_owned())]);
    let organization = Organization {
        organization_id: id.into(),
        display_name: id.into(),
        metadata: metadata(),
        ..Default::default()
    };
    let request =
        CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    tenant.organizations().create_organization(request).await.unwrap();
    let account_type =
        AccountType { account_type_id: id.into(), display_name: id.into(), ..Default::default() };
    let request =
        CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
    tenant.account_types().create_account_type(request).await.unwrap();
    tenant.staff(id).await;
    tenant.add_member(id, id).await.unwrap();
    tenant
        .account(Account {
            account_type_id: id.into(),
            account_manager_id: id.into(),
            metadata: metadata(),
            ..account(id, id)
        })
        .await;
    tenant.contract(contract(id, id)).await;
    tenant.setup(setup(id, id, id)).await;
    let items = vec![item(id, PortfolioItemState::Active)];
    tenant.portfolio(Portfolio { items, ..portfolio(id, id) }).await;
    let (contract_id, owner_id) = (id.into(), id.into());
    tenant.opportunity(Opportunity { contract_id, owner_id, ..opportunity(id, id) }).await;
    let contract_id = id.to_owned();
    tenant
        .subscription(Subscription { contract_id: contract_id.clone(), ..subscription(id, id) })
        .await;
    tenant.order(Order { contract_id, purchaser_id: id.into(), ..order(id, id) }).await;
}

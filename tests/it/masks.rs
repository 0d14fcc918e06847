//! What an update changes: every field of every resource that an update has, found by walking the
//! contract.

use std::collections::BTreeSet;

use customer_accounts::proto::{
    Account, AccountStatus, AccountType, Contact, Contract, DeliverySetup, FieldBehavior,
    LinkOrganizationRequest, PACKAGE, POOL, Person, PersonKind, TenantSettings, behaviors,
    google::r#type::Money,
};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ReflectMessage as _, Value,
};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};

use crate::{
    lists::execute,
    support::{
        Tenant, account,
        contracts::{day, setup, term},
        raw::call,
        refusal,
        sales::portfolio,
        violations,
    },
};

/// A resource that can be updated.
struct Subject {
    update: MethodDescriptor,
    /// The fields by which it is found.
    ids: &'static [&'static str],
    /// Another value for each of its fields, as far as they differ from what `tenant` has made.
    other: DynamicMessage,
}

impl Subject {
    fn new(update: &str, ids: &'static [&'static str], other: Json) -> Self {
        let (service, name) = update.split_once('/').unwrap();
        let service = POOL.get_service_by_name(&format!("{PACKAGE}.{service}")).unwrap();
        let update = service.methods().find(|method| method.name() == name).unwrap();
        let resource = resource(&update).kind().as_message().unwrap().clone();
        Self { update, ids, other: DynamicMessage::deserialize(resource, other).unwrap() }
    }

    /// The fields that an update could be meant to change: all but the ids, which find another
    /// resource, the etag, which is checked, and times.
    fn fields(&self) -> impl Iterator<Item = FieldDescriptor> {
        let kept = ["etag", "create_time", "update_time"];
        let other = |field: &FieldDescriptor| {
            !self.ids.contains(&field.name()) && !kept.contains(&field.name())
        };
        self.other.descriptor().fields().filter(other).collect::<Vec<_>>().into_iter()
    }

    /// Updates the resource with this in one field, and returns it.
    async fn update(
        &self,
        tenant: &Tenant,
        field: &FieldDescriptor,
        value: Value,
        mask: &[&str],
    ) -> Result<DynamicMessage, Status> {
        let mut wanted = DynamicMessage::new(self.other.descriptor());
        for id in self.ids {
            wanted.set_field_by_name(id, self.other.get_field_by_name(id).unwrap().into_owned());
        }
        wanted.set_field(field, value);
        self.send(tenant, wanted, mask).await
    }

    async fn send(
        &self,
        tenant: &Tenant,
        wanted: DynamicMessage,
        mask: &[&str],
    ) -> Result<DynamicMessage, Status> {
        let mut request = DynamicMessage::new(self.update.input());
        request.set_field(&resource(&self.update), Value::Message(wanted));
        let paths =
            prost_types::FieldMask { paths: mask.iter().map(ToString::to_string).collect() };
        let field = self.update.input().get_field_by_name("update_mask").unwrap();
        let mut update_mask = DynamicMessage::new(field.kind().as_message().unwrap().clone());
        update_mask.transcode_from(&paths).unwrap();
        request.set_field(&field, Value::Message(update_mask));
        let method = format!("{}/{}", self.update.parent_service().name(), self.update.name());
        let headers: [(&str, &[u8]); 1] = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
        let answers = call(&tenant.channel, &method, &headers, &request.encode_to_vec()).await?;
        let answer = DynamicMessage::decode(self.update.output(), &*answers[0]).unwrap();
        let field = answer.descriptor().fields().next().unwrap();
        Ok(answer.get_field(&field).as_message().unwrap().clone())
    }

    /// The resource as it is: an update of nothing returns it.
    async fn present(&self, tenant: &Tenant) -> DynamicMessage {
        let mut same = DynamicMessage::new(self.other.descriptor());
        for id in self.ids {
            same.set_field_by_name(id, self.other.get_field_by_name(id).unwrap().into_owned());
        }
        self.send(tenant, same, &["etag"]).await.unwrap()
    }
}

/// The field of an update's request that has the resource: the first.
fn resource(update: &MethodDescriptor) -> FieldDescriptor {
    update.input().get_field(1).unwrap()
}

/// A tenant with one resource of each kind, in which every field is set that an update could erase.
async fn subjects() -> (Tenant, Vec<Subject>) {
    let tenant = Tenant::new().await;
    // An amount without a currency is one of the default currency.
    let settings = TenantSettings { default_currency: "EUR".into(), ..Default::default() };
    tenant.update_settings(settings, &["default_currency"]).await.unwrap();
    for id in ["acme", "other", "third"] {
        tenant.organization(id, "").await;
    }
    for id in ["Enterprise", "Startup"] {
        tenant.account_type(id).await;
    }
    for id in ["sam", "tom"] {
        tenant.staff(id).await;
    }
    for id in ["ann", "bob", "eve", "ivy"] {
        tenant.person(id).await;
    }
    tenant.add_member("acme", "eve").await.unwrap();
    let full = json!({
        "accountId": "a", "displayName": "Acme", "description": "d", "organizationId": "acme", "accountTypeId": "Enterprise",
        "statusReason": "r", "primaryContact": {"name": "Jane Doe", "email": "jane@acme.example", "phone": "1"},
        "billingAddress": {"line1": "1"}, "shippingAddress": {"line1": "2"}, "postalAddress": {"line1": "3"},
        "officialAddress": {"line1": "4"}, "billingDetails": "b", "preferences": {"language": "en"}, "isPrimary": true,
        "accountManagerId": "sam", "comment": "c", "metadata": {"crm": "1"}, "taxId": "1",
    });
    let descriptor = POOL.get_message_by_name("accounts.v1.Account").unwrap();
    let full: Account =
        DynamicMessage::deserialize(descriptor, full).unwrap().transcode_to().unwrap();
    tenant.account(full).await;
    tenant.account(account("b", "other")).await;
    for id in ["ann", "bob", "ivy"] {
        tenant.add_user("a", id).await;
    }
    tenant.portfolio(portfolio("p", "a")).await;
    let link = LinkOrganizationRequest {
        account_id: "a".into(),
        organization_id: "third".into(),
        ..Default::default()
    };
    tenant.memberships().link_organization(link).await.unwrap();
    let days = ["2027-01-01", "2027-12-31"];
    tenant
        .contract(Contract {
            value: Some(Money { currency_code: "EUR".into(), units: 1, nanos: 0 }),
            document_uri: "http://acme.example/1".into(),
            ..term("c", "a", days, 0, 10)
        })
        .await;
    let planned = DeliverySetup {
        start_date: day(days[0]),
        end_date: day(days[1]),
        state_reason: "r".into(),
        ..setup("s", "c", "p")
    };
    tenant.setup(planned).await;
    let dates = json!({
        "accountId": "a", "personId": "ivy", "roles": ["member"],
        "startDate": {"year": 2020, "month": 1, "day": 1}, "endDate": {"year": 2999, "month": 1, "day": 1},
    });
    let user =
        Subject::new("MembershipService/UpdateAccountUser", &["account_id", "person_id"], dates);
    user.send(&tenant, user.other.clone(), &[]).await.unwrap();
    let subjects = vec![
        Subject::new(
            "AccountService/UpdateAccount",
            &["account_id"],
            json!({
                "accountId": "a", "displayName": "Other", "description": "other", "organizationId": "third",
                "accountTypeId": "Startup", "status": "ACCOUNT_STATUS_SUSPENDED", "statusReason": "other",
                "primaryContact": {"email": "other@acme.example"}, "billingAddress": {"city": "1"},
                "shippingAddress": {"city": "2"}, "postalAddress": {"city": "3"}, "officialAddress": {"city": "4"},
                "billingDetails": "other", "preferences": {"other": true}, "isPrimary": false, "accountManagerId": "tom",
                "billingContactId": "ann", "ccBillingContactId": "bob", "comment": "other", "metadata": {"other": "1"},
                "taxId": "2",
            }),
        ),
        Subject::new(
            "MembershipService/UpdateAccountUser",
            &["account_id", "person_id"],
            json!({
                "accountId": "a", "personId": "ivy", "displayName": "Other", "email": "other@acme.example",
                "individual": false, "organizationIds": ["other"], "roles": ["buyer"], "billing": true, "removable": false,
                "startDate": {"year": 2021, "month": 1, "day": 1}, "endDate": {"year": 2998, "month": 1, "day": 1},
                "contactSlots": ["CONTACT_SLOT_BILLING_CONTACT"], "inForce": false,
            }),
        ),
        Subject::new(
            "AccountTypeService/UpdateAccountType",
            &["account_type_id"],
            json!({"accountTypeId": "Startup", "displayName": "Other", "description": "other", "isDefault": true, "active": false}),
        ),
        Subject::new(
            "OrganizationService/UpdateOrganization",
            &["organization_id"],
            json!({"organizationId": "other", "displayName": "Another name", "parentId": "acme", "metadata": {"other": "1"}}),
        ),
        Subject::new(
            "ContractService/UpdateContract",
            &["contract_id"],
            json!({
                "contractId": "c", "accountId": "b", "title": "Other", "reference": "2", "description": "other",
                "documentUri": "https://other.example/2", "startDate": {"year": 2027, "month": 2, "day": 1},
                "endDate": {"year": 2028, "month": 1, "day": 31}, "value": {"currencyCode": "CHF", "units": "2"},
                "autoRenewal": true, "renewalMonths": 6, "noticeDays": 30, "state": "CONTRACT_STATE_VOID",
                "stateReason": "other", "termStartDate": {"year": 1}, "termEndDate": {"year": 1}, "renewalCount": 1,
                "noticeDeadlineDate": {"year": 1}, "effectiveEndDate": {"year": 1}, "submitTime": "2001-01-01T00:00:00Z",
                "submitter": "other", "approveTime": "2001-01-01T00:00:00Z", "approver": "other",
                "cancelTime": "2001-01-01T00:00:00Z", "metadata": {"other": "1"},
            }),
        ),
        Subject::new(
            "ContractService/UpdateDeliverySetup",
            &["delivery_setup_id"],
            json!({
                "deliverySetupId": "s", "contractId": "d", "accountId": "b", "projectId": "other", "deliveryModel": "other",
                "description": "other", "state": "DELIVERY_SETUP_STATE_READY", "stateReason": "other",
                "startDate": {"year": 2027, "month": 2, "day": 1}, "endDate": {"year": 2028, "month": 1, "day": 31},
                "contractState": "CONTRACT_STATE_VOID",
            }),
        ),
        Subject::new(
            "PersonService/UpdatePerson",
            &["person_id"],
            json!({
                "personId": "eve", "displayName": "Other", "email": "other@acme.example", "phone": "2",
                "kind": "PERSON_KIND_STAFF", "subject": "other", "active": false, "purchasingAccountId": "b",
            }),
        ),
        Subject::new(
            "PortfolioService/UpdatePortfolio",
            &["portfolio_id"],
            json!({
                "portfolioId": "p", "accountId": "b", "displayName": "Other", "description": "other",
                "items": [{"code": "x", "displayName": "X", "state": "PORTFOLIO_ITEM_STATE_RETIRED"}], "itemCount": 7,
            }),
        ),
        Subject::new(
            "TenantService/UpdateTenantSettings",
            &[],
            json!({
                "accountIdPrefix": "other", "defaultCurrency": "CHF", "membershipRoles": ["other"],
                "activityRetentionDays": 400, "timeZone": "Asia/Tokyo",
            }),
        ),
    ];
    let updates = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let updates =
        updates.filter(|method| method.input().get_field_by_name("update_mask").is_some());
    let names = |methods: &mut dyn Iterator<Item = String>| methods.collect::<BTreeSet<_>>();
    assert_eq!(
        names(&mut updates.map(|method| method.full_name().to_owned())),
        names(&mut subjects.iter().map(|subject| subject.update.full_name().to_owned())),
        "every update has its subject here"
    );
    (tenant, subjects)
}

#[tokio::test]
async fn an_empty_message_without_a_mask_changes_nothing() {
    let (tenant, subjects) = subjects().await;
    let mut tried = 0;
    for subject in subjects {
        let present = subject.present(&tenant).await;
        let is_set = |field: &FieldDescriptor| {
            !field.is_list()
                && !field.is_map()
                && !behaviors(field).contains(&FieldBehavior::OutputOnly)
        };
        for field in subject.fields().filter(is_set) {
            let Kind::Message(message) = field.kind() else { continue };
            assert!(present.has_field(&field), "{}: nothing could be erased", field.full_name());
            let updated = subject
                .update(&tenant, &field, Value::Message(DynamicMessage::new(message)), &[])
                .await
                .unwrap();
            assert_eq!(updated, present, "{}", field.full_name());
            tried += 1;
        }
    }
    assert!(tried >= 8, "six of an account, two of a user");
}

#[tokio::test]
async fn a_field_that_a_mask_names_changes_or_is_refused_unless_no_call_sets_it() {
    let (tenant, subjects) = subjects().await;
    let (mut refused, mut ignored) = (BTreeSet::new(), BTreeSet::new());
    for subject in subjects {
        for field in subject.fields() {
            let (name, full_name) = (field.name(), field.full_name());
            let value = subject.other.get_field(&field).into_owned();
            assert_ne!(
                &value,
                &*subject.present(&tenant).await.get_field(&field),
                "{full_name}: nothing to change"
            );
            match subject.update(&tenant, &field, value.clone(), &[name]).await {
                Ok(updated) if value == *updated.get_field(&field) => {}
                Ok(_) => {
                    assert_eq!(behaviors(&field), [FieldBehavior::OutputOnly], "{full_name}");
                    ignored.insert(full_name.to_owned());
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::InvalidArgument, "{full_name}: {status:?}");
                    let found = violations(status);
                    assert_eq!(
                        found[0].0,
                        format!("{}.{name}", resource(&subject.update).name()),
                        "{found:?}"
                    );
                    // Sent back as it is, it is no change.
                    let present = subject.present(&tenant).await;
                    let same = present.get_field(&field).into_owned();
                    assert_eq!(
                        subject.update(&tenant, &field, same, &[name]).await.unwrap(),
                        present,
                        "{full_name}"
                    );
                    refused.insert(format!("{name} {}", found[0].1));
                }
            }
        }
    }
    let expected = [
        "account_id cannot be changed: a contract stays with its account",
        "account_id cannot be changed: a portfolio stays with its account",
        "contact_slots is changed by UpdateAccount only",
        "contract_id cannot be changed: a delivery setup stays with its contract",
        "display_name is changed by UpdatePerson only",
        "email is changed by UpdatePerson only",
        "individual is changed by AddAccountUser and RemoveAccountUser only",
        "organization_ids is changed by LinkOrganization, AddOrganizationMember and their counterparts only",
        "parent_id is changed by MoveOrganization only",
        "purchasing_account_id is changed by SetPurchasingAccount only",
        "state is changed by SubmitContract and the calls that follow it only",
        "state_reason is changed by RejectContract, VoidContract, CancelContract and TerminateContract only",
    ];
    assert_eq!(refused.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    let expected = [
        "accounts.v1.AccountUser.in_force",
        "accounts.v1.AccountUser.removable",
        "accounts.v1.Contract.approve_time",
        "accounts.v1.Contract.approver",
        "accounts.v1.Contract.cancel_time",
        "accounts.v1.Contract.effective_end_date",
        "accounts.v1.Contract.notice_deadline_date",
        "accounts.v1.Contract.renewal_count",
        "accounts.v1.Contract.submit_time",
        "accounts.v1.Contract.submitter",
        "accounts.v1.Contract.term_end_date",
        "accounts.v1.Contract.term_start_date",
        "accounts.v1.DeliverySetup.account_id",
        "accounts.v1.DeliverySetup.contract_state",
        "accounts.v1.Portfolio.item_count",
    ];
    assert_eq!(ignored.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_is_required_and_only_that_cannot_be_emptied() {
    let (tenant, subjects) = subjects().await;
    let mut kept = 0;
    for subject in subjects {
        for field in subject.fields() {
            let (name, behaviors) = (field.name(), behaviors(&field));
            // An enum has no empty value.
            let is_enum = matches!(field.kind(), Kind::Enum(_));
            if is_enum || behaviors.contains(&FieldBehavior::OutputOnly) {
                continue;
            }
            let empty = Value::default_value_for_field(&field);
            let emptied = subject.update(&tenant, &field, empty, &[name]).await;
            if behaviors.contains(&FieldBehavior::Required) {
                let path = format!("{}.{name}", resource(&subject.update).name());
                let found = violations(emptied);
                assert!(found[0].0.starts_with(&path), "{path}: {found:?}");
                kept += 1;
            } else {
                assert!(emptied.is_ok(), "{}: {emptied:?}", field.full_name());
            }
        }
    }
    assert!(kept >= 8, "{kept}");
}

/// What a client sends back as it read it may have changed since, by another call.
#[tokio::test]
async fn what_an_update_cannot_change_is_refused_only_if_the_mask_names_it() {
    let (tenant, _) = subjects().await;
    for (mask, refused) in [
        (&["*"][..], false),
        (&[], false),
        (&["roles"], false),
        (&["roles", "email"], true),
        (&["*", "email"], true),
    ] {
        let wanted = json!({"accountId": "a", "personId": "ann", "roles": ["buyer"], "email": "stale@acme.example"});
        let user = Subject::new(
            "MembershipService/UpdateAccountUser",
            &["account_id", "person_id"],
            wanted,
        );
        let answer = user.send(&tenant, user.other.clone(), mask).await;
        if refused {
            assert_eq!(
                violations(answer),
                [("account_user.email".to_owned(), "is changed by UpdatePerson only".to_owned())]
            );
        } else {
            let updated = answer.unwrap();
            assert!(updated.get_field_by_name("individual").unwrap().as_bool().unwrap());
            assert_ne!(
                updated.get_field_by_name("email").unwrap().as_str(),
                Some("stale@acme.example"),
                "{mask:?}"
            );
        }
    }
}

/// "Primary Contact Email: required; Name: not; Phone: not."
#[tokio::test]
async fn an_account_has_a_primary_contact_with_an_email_address_or_a_person() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.person("ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    let contact = |email: &str, name: &str, person_id: &str| {
        Some(Contact {
            email: email.into(),
            name: name.into(),
            person_id: person_id.into(),
            ..Default::default()
        })
    };
    let with = |id: &str, primary_contact| Account { primary_contact, ..account(id, "acme") };
    let required = "is required, unless account.primary_contact.person_id names a person";
    for none in [None, contact("", "", ""), contact("", "Jane Doe", "")] {
        let refused = violations(tenant.try_account(with("x", none)).await);
        assert_eq!(refused, [("account.primary_contact.email".to_owned(), required.to_owned())]);
    }
    tenant.account(with("inline", contact("jane@acme.example", "", ""))).await;
    let by_person = tenant.account(with("person", contact("", "", "ann"))).await;
    assert_eq!(by_person.primary_contact.unwrap().person_id, "ann");

    let only = |id: &str, primary_contact| Account {
        account_id: id.into(),
        primary_contact,
        ..Default::default()
    };
    for (id, contact, path) in [
        ("inline", None, "primary_contact"),
        ("inline", contact("", "", ""), "primary_contact"),
        ("inline", None, "primary_contact.email"),
        ("person", None, "primary_contact"),
        ("person", None, "primary_contact.person_id"),
    ] {
        let refused = violations(tenant.update(only(id, contact), &[path]).await);
        assert_eq!(refused[0].0, "account.primary_contact.email", "{id} {path}");
        assert!(
            refused[0].1.contains("unless account.primary_contact.person_id names a person"),
            "{refused:?}"
        );
    }
    // One takes the place of the other; what a person has is the person's.
    tenant.update(only("inline", contact("", "", "ann")), &[]).await.unwrap();
    tenant.update(only("person", contact("jane@acme.example", "", "")), &[]).await.unwrap();
    let refused = violations(
        tenant
            .update(only("inline", contact("x@y.example", "", "")), &["primary_contact.email"])
            .await,
    );
    assert_eq!(refused[0].1, "is read from the person: UpdatePerson changes it");
}

/// Accounts from before the rule have no contact, and nobody need find one to correct a comment.
#[tokio::test]
async fn an_account_that_never_had_a_contact_can_be_changed_otherwise() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account(account("a", "acme")).await;
    execute(&tenant, "UPDATE accounts SET primary_contact = NULL WHERE account_id = 'a'").await;
    let comment = Account { account_id: "a".into(), comment: "new".into(), ..Default::default() };
    let updated = tenant.update(comment, &[]).await.unwrap();
    assert_eq!((updated.primary_contact, &*updated.comment), (None, "new"));
    let all = Account {
        primary_contact: None,
        status: AccountStatus::Active.into(),
        ..account("a", "acme")
    };
    tenant.update(all, &["*"]).await.unwrap();
}

/// Somebody inactive can be created so, and a client that does not know the field creates an active
/// one.
#[tokio::test]
async fn new_people_and_types_are_active_unless_told_otherwise() {
    let tenant = Tenant::new().await;
    let inactive = tenant.try_account_type(AccountType {
        display_name: "Old".into(),
        active: Some(false),
        ..Default::default()
    });
    assert!(!inactive.await.unwrap().active());
    let person = |id: &str, active| Person {
        person_id: id.into(),
        display_name: id.into(),
        kind: PersonKind::Customer.into(),
        active,
        ..Default::default()
    };
    assert!(!tenant.try_person(person("off", Some(false))).await.unwrap().active());
    assert!(tenant.try_person(person("on", None)).await.unwrap().active());
    let default = AccountType {
        display_name: "Default".into(),
        is_default: true,
        active: Some(false),
        ..Default::default()
    };
    assert_eq!(refusal(tenant.try_account_type(default).await), "DEFAULT_ACCOUNT_TYPE_INACTIVE");
}

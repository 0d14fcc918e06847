//! Every call of the contract, where its module is off.

use customer_accounts::{
    policy::{Policies, Policy},
    proto::ModuleSetting::{Inherited, Off, On},
};
use tonic::Status;

use crate::{
    modules::{ALL, by_tenant, denial},
    support::{
        Tenant,
        every_call::{self, Ask, everything},
        raw, refusal,
    },
};

/// Every call, as it asks about the resources under `id`, while all others are on.
fn asks(id: &str) -> Vec<Ask> {
    every_call::naming(id, "on").into_iter().map(Ask::validating).collect()
}

/// Whether a call asks about an account or an organization: modules are off for these.
fn is_bound(ask: &Ask) -> bool {
    let field = ask.field();
    [
        "account_id",
        "organization_id",
        "parent_id",
        "contract_id",
        "delivery_setup_id",
        "portfolio_id",
        "opportunity_id",
        "subscription_id",
        "order_id",
    ]
    .iter()
    .any(|id| field.trim_end_matches('s').ends_with(id))
}

fn policies() -> Policies {
    Policies::read().unwrap()
}

fn policy<'p>(policies: &'p Policies, method: &str) -> &'p Policy {
    policies.get(&format!("/accounts.v1.{method}")).unwrap()
}

async fn answer(tenant: &Tenant, ask: &Ask) -> Result<Vec<Vec<u8>>, Status> {
    let headers = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
    raw::call(&tenant.channel, ask.method, &headers, &ask.encoded()).await
}

#[test]
fn every_call_belongs_to_a_module() {
    for policy in policies().iter() {
        assert!(
            ALL.contains(&policy.module) || policy.module == "administration",
            "{}: {}",
            policy.method,
            policy.module
        );
    }
}

#[tokio::test]
async fn every_call_is_denied_where_its_module_is_off() {
    let (tenant, policies) = (Tenant::new().await, policies());
    for id in ["off", "on"] {
        everything(&tenant, id).await;
    }
    tenant.link("on", "off", false).await.unwrap();
    let not_denied = |ask: &Ask, answer: Result<Vec<Vec<u8>>, Status>| {
        if let Err(status) = answer {
            let reason = refusal(status);
            assert!(
                !["MODULE_NOT_ACTIVATED", "INVALID_FIELD", "INTERNAL"].contains(&&*reason),
                "{ask:?}: {reason}"
            );
        }
    };
    for ask in asks("off") {
        not_denied(&ask, answer(&tenant, &ask).await);
    }
    for module in ALL {
        tenant.set_module(module, "off", Off).await.unwrap();
    }
    for ask in asks("off") {
        let answer = answer(&tenant, &ask).await;
        let module = policy(&policies, ask.method).module;
        if is_bound(&ask) && module != "administration" {
            let expected = (module.to_owned(), "ORGANIZATION".to_owned(), Some("off".to_owned()));
            assert_eq!(denial(answer), expected, "{ask:?}");
        } else {
            not_denied(&ask, answer);
        }
    }
    for ask in asks("on") {
        not_denied(&ask, answer(&tenant, &ask).await);
    }
    for module in ALL {
        tenant.set_module(module, "off", Inherited).await.unwrap();
        tenant.set_module(module, "", Off).await.unwrap();
    }
    for ask in asks("off") {
        let answer = answer(&tenant, &ask).await;
        let module = policy(&policies, ask.method).module;
        if module == "administration" {
            not_denied(&ask, answer);
        } else {
            assert_eq!(denial(answer), by_tenant(module), "{ask:?}");
        }
    }
    for module in ALL {
        tenant.set_module(module, "", On).await.unwrap();
    }
    for ask in asks("off") {
        not_denied(&ask, answer(&tenant, &ask).await);
    }
}

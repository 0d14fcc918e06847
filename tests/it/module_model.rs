//! Modules against a naive model: random trees, settings and moves.

use std::collections::BTreeMap;

use customer_accounts::proto::{
    ListAccountsRequest, ListModuleActivationsRequest, ListOrganizationsRequest,
    ModuleSetting::{Inherited, Off, On},
};

use crate::support::{
    Tenant, account,
    dice::{Dice, seed},
    refusal, trail,
};

const MODULE: &str = "customer_accounts";
const STEPS: usize = 30;
const HISTORIES: u64 = 3;

/// The parents of organizations and the settings of the module.
#[derive(Default)]
struct Model {
    parents: BTreeMap<String, String>,
    settings: BTreeMap<String, bool>,
    tenant_off: bool,
}

impl Model {
    /// Whether the module is on for an organization, and the organization whose setting decides;
    /// empty for the tenant.
    fn state(&self, id: &str) -> (bool, String) {
        let mut at = id;
        while !self.tenant_off && !at.is_empty() {
            if let Some(active) = self.settings.get(at) {
                return (*active, at.to_owned());
            }
            at = &self.parents[at];
        }
        (!self.tenant_off, String::new())
    }

    fn is_below(&self, id: &str, above: &str) -> bool {
        let mut at = id;
        while !at.is_empty() {
            if at == above {
                return true;
            }
            at = &self.parents[at];
        }
        false
    }

    fn any(&self, dice: &mut Dice) -> String {
        let at = dice.index(self.parents.len());
        self.parents.keys().nth(at).unwrap().clone()
    }

    /// The ids that lists show.
    fn on(&self) -> Vec<&String> {
        self.parents.keys().filter(|id| self.state(id).0).collect()
    }
}

#[tokio::test]
async fn modules_are_on_where_a_naive_model_says() {
    let first = seed();
    for number in 0..HISTORIES {
        history(first.wrapping_add(number)).await;
    }
}

async fn history(seed: u64) {
    let (mut dice, mut model, tenant) = (Dice::seeded(seed), Model::default(), Tenant::new().await);
    for n in 0..10 {
        let (id, top) = (format!("o{n}"), model.parents.is_empty() || dice.roll(5) == 0);
        let parent = if top { String::new() } else { model.any(&mut dice) };
        tenant.organization(&id, &parent).await;
        tenant.account(account(&id, &id)).await;
        model.parents.insert(id, parent);
    }
    for step in 0..STEPS {
        let what = format!("seed {seed}, step {step}");
        change(&mut dice, &mut model, &tenant, &what).await;
        compare(&mut dice, &model, &tenant, &what).await;
    }
    trail::replay(&tenant).await;
}

async fn change(dice: &mut Dice, model: &mut Model, tenant: &Tenant, what: &str) {
    let id = model.any(dice);
    match dice.roll(10) {
        0 => {
            model.tenant_off = !model.tenant_off;
            let setting = if model.tenant_off { Off } else { *dice.pick(&[On, Inherited]) };
            tenant.set_module(MODULE, "", setting).await.unwrap();
        }
        1..=2 => {
            model.settings.insert(id.clone(), true);
            tenant.set_module(MODULE, &id, On).await.unwrap();
        }
        3..=5 => {
            model.settings.insert(id.clone(), false);
            tenant.set_module(MODULE, &id, Off).await.unwrap();
        }
        6..=7 => {
            model.settings.remove(&id);
            tenant.set_module(MODULE, &id, Inherited).await.unwrap();
        }
        _ => {
            let parent = if dice.roll(3) == 0 { String::new() } else { model.any(dice) };
            if model.is_below(&parent, &id) {
                return;
            }
            let moved = tenant.move_organization(&id, &parent).await;
            if model.state(&id).0
                && (parent.is_empty() || parent == model.parents[&id] || model.state(&parent).0)
            {
                moved.unwrap_or_else(|status| panic!("{what}: {status:?}"));
                model.parents.insert(id, parent);
            } else {
                assert_eq!(refusal(moved), "MODULE_NOT_ACTIVATED", "{what}: {id} below {parent}");
            }
        }
    }
}

async fn compare(dice: &mut Dice, model: &Model, tenant: &Tenant, what: &str) {
    let id = model.any(dice);
    let request = ListModuleActivationsRequest {
        organization_id: id.clone(),
        module: MODULE.into(),
        ..Default::default()
    };
    let states =
        tenant.tenants().list_module_activations(request).await.unwrap().into_inner().module_states;
    assert_eq!(
        (states[0].active, states[0].organization_id.clone()),
        model.state(&id),
        "{what}: {id}"
    );
    for id in model.parents.keys() {
        let answer = tenant.get(id).await;
        if model.state(id).0 {
            answer.unwrap_or_else(|status| panic!("{what}: {id}: {status:?}"));
        } else {
            assert_eq!(refusal(answer), "MODULE_NOT_ACTIVATED", "{what}: {id}");
        }
    }
    let accounts = tenant.accounts().list_accounts(ListAccountsRequest::default()).await;
    let organizations =
        tenant.organizations().list_organizations(ListOrganizationsRequest::default()).await;
    if model.tenant_off {
        assert_eq!(refusal(accounts), "MODULE_NOT_ACTIVATED", "{what}");
        assert_eq!(refusal(organizations), "MODULE_NOT_ACTIVATED", "{what}");
        return;
    }
    let (accounts, organizations) = (
        accounts.unwrap().into_inner().accounts,
        organizations.unwrap().into_inner().organizations,
    );
    assert_eq!(
        accounts.iter().map(|account| &account.account_id).collect::<Vec<_>>(),
        model.on(),
        "{what}"
    );
    assert_eq!(
        organizations.iter().map(|it| &it.organization_id).collect::<Vec<_>>(),
        model.on(),
        "{what}"
    );
}

//! The tree of organizations against a naive model of it, under random changes.

use std::collections::{BTreeMap, BTreeSet};

use customer_accounts::proto::{
    CreateOrganizationRequest, ListAccountsRequest, ListOrganizationsRequest, ListPeopleRequest,
    Organization, UpdateOrganizationRequest,
};
use futures_util::future::join_all;
use tonic::{Response, Status};

use crate::support::{
    Tenant, account,
    calls::only,
    dice::{Dice, seed},
    refusal,
};

const ORGANIZATIONS: u64 = 26;
const ACCOUNTS: u64 = 12;
const PEOPLE: u64 = 6;
const STEPS: usize = 300;
const MAX_LEVELS: usize = 16;

/// One call that may change something.
#[derive(Debug)]
enum Step {
    Create { id: String, parent: String },
    Move { id: String, parent: String },
    Delete { id: String },
    Rename { id: String, name: String },
    PutAccount { id: String, organization: String },
    Join { organization: String, person: String },
    Leave { organization: String, person: String },
}

/// What the service is to know, kept as simply as can be.
#[derive(Default)]
struct Model {
    /// Parent (empty at the top) and name.
    organizations: BTreeMap<String, (String, String)>,
    /// Account and its organization.
    accounts: BTreeMap<String, String>,
    /// Organization and person.
    members: BTreeSet<(String, String)>,
}

impl Model {
    fn parent(&self, id: &str) -> &str {
        &self.organizations[id].0
    }

    /// The organization itself and all above it.
    fn upwards<'a>(&'a self, id: &'a str) -> Vec<&'a str> {
        let mut all = vec![id];
        while let Some(above) =
            all.last().map(|id| self.parent(id)).filter(|above| !above.is_empty())
        {
            all.push(above);
        }
        all
    }

    /// The organization itself, if it exists, and all below it.
    fn downwards(&self, top: &str) -> BTreeSet<&str> {
        self.organizations
            .keys()
            .map(String::as_str)
            .filter(|id| self.upwards(id).contains(&top))
            .collect()
    }

    fn level(&self, id: &str) -> usize {
        self.upwards(id).len()
    }

    /// The answer: nothing, or the reason of the refusal.
    fn take(&mut self, step: &Step) -> Result<(), &'static str> {
        let known = |id: &str| {
            if self.organizations.contains_key(id) { Ok(()) } else { Err("ORGANIZATION_NOT_FOUND") }
        };
        match step {
            Step::Create { id, parent } => {
                if !parent.is_empty() {
                    known(parent)?;
                    if self.level(parent) == MAX_LEVELS {
                        return Err("ORGANIZATION_TOO_DEEP");
                    }
                }
                if self.organizations.contains_key(id) {
                    return Err("ORGANIZATION_ALREADY_EXISTS");
                }
                self.organizations.insert(id.clone(), (parent.clone(), id.clone()));
            }
            Step::Move { id, parent } => {
                known(id)?;
                if !parent.is_empty() && self.parent(id) != parent {
                    known(parent)?;
                    let moved = self.downwards(id);
                    if moved.contains(&**parent) {
                        return Err("ORGANIZATION_CYCLE");
                    }
                    let levels = moved
                        .into_iter()
                        .map(|below| self.level(below) + 1 - self.level(id))
                        .max()
                        .unwrap();
                    if self.level(parent) + levels > MAX_LEVELS {
                        return Err("ORGANIZATION_TOO_DEEP");
                    }
                }
                self.organizations.get_mut(id).unwrap().0.clone_from(parent);
            }
            Step::Delete { id } => {
                known(id)?;
                let has_children = self.organizations.values().any(|(parent, _)| parent == id);
                if has_children || self.accounts.values().any(|organization| organization == id) {
                    return Err("ORGANIZATION_NOT_EMPTY");
                }
                self.organizations.remove(id);
                self.members.retain(|(organization, _)| organization != id);
            }
            Step::Rename { id, name } => {
                known(id)?;
                self.organizations.get_mut(id).unwrap().1.clone_from(name);
            }
            Step::PutAccount { id, organization } => {
                known(organization)?;
                self.accounts.insert(id.clone(), organization.clone());
            }
            Step::Join { organization, person } => {
                known(organization)?;
                self.members.insert((organization.clone(), person.clone()));
            }
            Step::Leave { organization, person } => {
                known(organization)?;
                if !self.members.remove(&(organization.clone(), person.clone())) {
                    return Err("ORGANIZATION_MEMBER_NOT_FOUND");
                }
            }
        }
        Ok(())
    }

    fn accounts_below(&self, id: &str) -> BTreeSet<String> {
        let below = self.downwards(id);
        let within =
            self.accounts.iter().filter(|(_, organization)| below.contains(&***organization));
        within.map(|(account, _)| account.clone()).collect()
    }

    fn members_below(&self, id: &str) -> BTreeSet<String> {
        let below = self.downwards(id);
        let within =
            self.members.iter().filter(|(organization, _)| below.contains(&**organization));
        within.map(|(_, person)| person.clone()).collect()
    }
}

/// The next thing to try. Tall trees are rare by chance alone, so that every second parent is one
/// at the bottom.
fn roll(dice: &mut Dice, model: &Model) -> Step {
    let id = format!("o{:02}", dice.roll(ORGANIZATIONS));
    let person = format!("p{}", dice.roll(PEOPLE));
    let lowest =
        model.organizations.keys().max_by_key(|id| model.level(id)).cloned().unwrap_or_default();
    let parent = match dice.roll(8) {
        0 => String::new(),
        1..=4 => lowest,
        _ => format!("o{:02}", dice.roll(ORGANIZATIONS)),
    };
    match dice.roll(20) {
        0..=5 => Step::Create { id, parent },
        6..=10 => Step::Move { id, parent },
        11..=12 => Step::Delete { id },
        13 => Step::Rename { name: format!("{id} {}", dice.roll(9)), id },
        14..=15 => {
            Step::PutAccount { id: format!("a{:02}", dice.roll(ACCOUNTS)), organization: id }
        }
        16..=18 => Step::Join { organization: id, person },
        _ => Step::Leave { organization: id, person },
    }
}

/// Makes the call of a step to the service.
async fn call(tenant: &Tenant, model: &Model, step: &Step) -> Result<(), Status> {
    match step {
        Step::Create { id, parent } => {
            let (organization_id, parent_id) = (id.clone(), parent.clone());
            let new = Organization {
                display_name: id.clone(),
                organization_id,
                parent_id,
                ..Default::default()
            };
            let request =
                CreateOrganizationRequest { organization: Some(new), ..Default::default() };
            tenant.organizations().create_organization(request).await.map(|_| ())
        }
        Step::Move { id, parent } => {
            let moved = tenant.move_organization(id, parent).await?;
            assert_eq!((&moved.organization_id, &moved.parent_id), (id, parent));
            Ok(())
        }
        Step::Delete { id } => tenant.delete_organization(id, "").await,
        Step::Rename { id, name } => {
            let renamed = Organization {
                organization_id: id.clone(),
                display_name: name.clone(),
                ..Default::default()
            };
            let request =
                UpdateOrganizationRequest { organization: Some(renamed), ..Default::default() };
            tenant.organizations().update_organization(request).await.map(|_| ())
        }
        Step::PutAccount { id, organization } if model.accounts.contains_key(id) => {
            let mut wanted = only(id);
            wanted.organization_id.clone_from(organization);
            tenant.update(wanted, &[]).await.map(|_| ())
        }
        Step::PutAccount { id, organization } => {
            tenant.try_account(account(id, organization)).await.map(|_| ())
        }
        Step::Join { organization, person } => {
            tenant.add_member(organization, person).await.map(|_| ())
        }
        Step::Leave { organization, person } => tenant.remove_member(organization, person).await,
    }
}

/// Compares all organizations, and what lies below a few.
async fn compare(tenant: &Tenant, model: &Model, dice: &mut Dice, at: &str) {
    let all = ListOrganizationsRequest { page_size: 1000, ..Default::default() };
    let shown =
        tenant.organizations().list_organizations(all).await.unwrap().into_inner().organizations;
    let shown: BTreeMap<_, _> = shown
        .into_iter()
        .map(|shown| (shown.organization_id, (shown.parent_id, shown.display_name)))
        .collect();
    assert_eq!(shown, model.organizations, "{at}");
    for _ in 0..3 {
        let id = format!("o{:02}", dice.roll(ORGANIZATIONS));
        let request = ListAccountsRequest {
            organization_id: id.clone(),
            include_descendants: true,
            ..Default::default()
        };
        let accounts = once(tenant.list(request).await, at);
        assert_eq!(accounts, model.accounts_below(&id), "accounts below {id}, {at}");
        let request = ListPeopleRequest {
            organization_id: id.clone(),
            include_descendants: true,
            ..Default::default()
        };
        let people = once(tenant.list_people(request).await, at);
        assert_eq!(people, model.members_below(&id), "people below {id}, {at}");
        let members = tenant.members(&id, true).await;
        if model.organizations.contains_key(&id) {
            assert_eq!(once(members.unwrap(), at), people, "members below {id}, {at}");
        } else {
            assert_eq!(refusal(members), "ORGANIZATION_NOT_FOUND", "members below {id}, {at}");
        }
        let request = ListOrganizationsRequest { parent_id: id.clone(), ..Default::default() };
        let children = tenant
            .organizations()
            .list_organizations(request)
            .await
            .map(Response::into_inner)
            .unwrap()
            .organizations;
        let children: Vec<_> = children.into_iter().map(|child| child.organization_id).collect();
        let expected = model
            .organizations
            .iter()
            .filter(|(_, (parent, _))| *parent == id)
            .map(|(child, _)| child.clone());
        assert_eq!(once(children, at), expected.collect(), "children of {id}, {at}");
    }
}

/// The ids of a list, each of which is there once.
#[track_caller]
fn once(ids: Vec<String>, at: &str) -> BTreeSet<String> {
    let count = ids.len();
    let ids: BTreeSet<_> = ids.into_iter().collect();
    assert_eq!(ids.len(), count, "each once: {at}");
    ids
}

/// Plays one history; how often each answer came.
async fn play(seed: u64) -> BTreeMap<String, usize> {
    let tenant = Tenant::new().await;
    for person in 0..PEOPLE {
        tenant.person(&format!("p{person}")).await;
    }
    let (mut dice, mut model) = (Dice::seeded(seed), Model::default());
    let mut answers = BTreeMap::new();
    for number in 0..STEPS {
        let step = roll(&mut dice, &model);
        let at = format!("seed {seed}, step {number}: {step:?}");
        let answer = call(&tenant, &model, &step).await;
        let answer = if answer.is_ok() { "OK".to_owned() } else { refusal(answer) };
        assert_eq!(answer, model.take(&step).err().unwrap_or("OK"), "{at}");
        *answers.entry(answer).or_default() += 1;
        if number % 10 == 9 {
            compare(&tenant, &model, &mut dice, &at).await;
        }
    }
    answers
}

#[tokio::test]
async fn the_tree_is_like_its_model_whatever_is_done_to_it() {
    // Three histories are the same in every run, and one is new.
    let histories = join_all([1, 2, 3, seed()].map(play)).await;
    let mut answers = BTreeMap::<_, usize>::new();
    for (answer, count) in histories.into_iter().take(3).flatten() {
        *answers.entry(answer).or_default() += count;
    }
    for answer in [
        "OK",
        "ORGANIZATION_ALREADY_EXISTS",
        "ORGANIZATION_CYCLE",
        "ORGANIZATION_MEMBER_NOT_FOUND",
        "ORGANIZATION_NOT_EMPTY",
        "ORGANIZATION_NOT_FOUND",
        "ORGANIZATION_TOO_DEEP",
    ] {
        assert!(
            answers.get(answer).is_some_and(|count| *count >= 5),
            "{answer} is hardly tried: {answers:?}"
        );
    }
}

//! Concurrent calls that move, create and delete organizations, and that appoint and deactivate
//! account managers. Afterwards the tree has no cycle, the table of ancestors matches the parents,
//! no reference dangles, and each call that lost was told the reason.

#![expect(clippy::large_futures, reason = "the calls of a race start together")]

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_accounts::proto::{
    Account, AddOrganizationMemberRequest, CreateOrganizationRequest, CreatePersonRequest,
    DeleteOrganizationRequest, DeletePersonRequest, ListAccountsRequest, ListActivitiesRequest,
    ListPeopleRequest, MoveOrganizationRequest, Organization, Person, PersonKind,
    RemoveOrganizationMemberRequest, UpdateOrganizationRequest, UpdatePersonRequest,
};
use futures_util::future::{join, join_all, join3, join4, join5};
use tokio::time::Instant;
use tonic::Status;

use crate::support::{
    Tenant, account, apart,
    calls::{mask, only},
    dice::{Dice, seed},
    refusal, trail, waiting_for_locks,
};

/// What the ancestor table lacks or has too much, measured by the parents, and how deep the tree
/// is.
const TREE: &str = "
    WITH RECURSIVE closure (organization_id, ancestor_id, distance) AS (
        SELECT organization_id, organization_id, 0 FROM organizations WHERE tenant_id = $1
        UNION ALL
        SELECT closure.organization_id, parent_id, distance + 1 FROM closure
            JOIN organizations AS o ON o.tenant_id = $1 AND o.organization_id = closure.ancestor_id
            WHERE parent_id IS NOT NULL AND distance < 40
    ), kept AS (
        SELECT organization_id, ancestor_id, distance FROM organization_ancestors WHERE tenant_id = $1
    ), wrong AS (
        SELECT 'lacks' AS what, * FROM (TABLE closure EXCEPT ALL TABLE kept) AS x
        UNION ALL SELECT 'has', * FROM (TABLE kept EXCEPT ALL TABLE closure) AS x
    )
    SELECT coalesce((SELECT string_agg(concat_ws(' ', what, organization_id, ancestor_id, distance), ', ') FROM wrong), ''),
        coalesce((SELECT max(distance) + 1 FROM closure), 0)";

/// Everything that would hang in the air, or be where it must not be.
const HANGING: &str = "
    SELECT 'account ' || account_id FROM accounts AS a WHERE tenant_id = $1 AND NOT EXISTS
        (SELECT FROM organizations AS o WHERE o.tenant_id = $1 AND o.organization_id = a.organization_id)
    UNION ALL SELECT 'child ' || organization_id FROM organizations AS c WHERE tenant_id = $1 AND parent_id IS NOT NULL
        AND NOT EXISTS (SELECT FROM organizations AS o WHERE o.tenant_id = $1 AND o.organization_id = c.parent_id)
    UNION ALL SELECT 'member ' || person_id || ' of ' || organization_id FROM organization_members AS m WHERE tenant_id = $1
        AND NOT (EXISTS (SELECT FROM organizations AS o WHERE o.tenant_id = $1 AND o.organization_id = m.organization_id)
            AND EXISTS (SELECT FROM people AS p WHERE p.tenant_id = $1 AND p.person_id = m.person_id))
    UNION ALL SELECT 'word of ' || organization_id FROM organization_words AS w WHERE tenant_id = $1
        AND NOT EXISTS (SELECT FROM organizations AS o WHERE o.tenant_id = $1 AND o.organization_id = w.organization_id)
    UNION ALL SELECT 'manager ' || account_manager_id || ' of ' || account_id FROM accounts AS a WHERE tenant_id = $1
        AND account_manager_id IS NOT NULL AND NOT EXISTS (SELECT FROM people AS p WHERE p.tenant_id = $1
            AND p.person_id = a.account_manager_id AND p.active AND p.kind = 'STAFF')";

/// A tenant in a database of its own, and a superuser's connection to that database.
struct Scene {
    tenant: Tenant,
    sql: tokio_postgres::Client,
}

impl Scene {
    async fn set() -> Option<Self> {
        let (tenant, sql, _) = apart().await?;
        Some(Self { tenant, sql })
    }

    /// Fails unless the ancestor rows are exactly those that follow from the parents, no tree is
    /// too deep, and no reference dangles.
    #[track_caller]
    fn check(&self, what: impl std::fmt::Display) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let row = self.sql.query_one(TREE, &[&self.tenant.caller.tenant]).await.unwrap();
            assert_eq!(
                row.get::<_, String>(0),
                "",
                "{caller}: {what}: the ancestors are not those of the parents"
            );
            assert!(
                row.get::<_, i32>(1) <= 16,
                "{caller}: {what}: {} levels",
                row.get::<_, i32>(1)
            );
            let hanging = self.sql.query(HANGING, &[&self.tenant.caller.tenant]).await.unwrap();
            let hanging: Vec<String> = hanging.iter().map(|row| row.get(0)).collect();
            assert_eq!(hanging, Vec::<String>::new(), "{caller}: {what}");
        }
    }

    /// A chain of organizations, each below the one before: `name1` at the top.
    async fn chain(&self, name: &str, levels: usize) {
        for level in 1..=levels {
            let above = if level == 1 { String::new() } else { format!("{name}{}", level - 1) };
            self.tenant.organization(&format!("{name}{level}"), &above).await;
        }
    }
}

/// The calls of the races. Each is on its way only when polled, so that `join` starts them
/// together.
impl Tenant {
    async fn put(&self, id: &str, parent_id: &str) -> Result<(), Status> {
        let request = MoveOrganizationRequest {
            organization_id: id.into(),
            parent_id: parent_id.into(),
            ..Default::default()
        };
        self.organizations().move_organization(request).await.map(drop)
    }

    async fn child(&self, id: &str, parent_id: &str) -> Result<(), Status> {
        let organization = Organization {
            organization_id: id.into(),
            display_name: format!("Unit {id}"),
            parent_id: parent_id.into(),
            ..Default::default()
        };
        let request =
            CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        self.organizations().create_organization(request).await.map(drop)
    }

    pub async fn rename(&self, id: &str, display_name: &str) -> Result<(), Status> {
        let organization = Organization {
            organization_id: id.into(),
            display_name: display_name.into(),
            ..Default::default()
        };
        let request = UpdateOrganizationRequest {
            organization: Some(organization),
            update_mask: mask(&["display_name"]),
            ..Default::default()
        };
        self.organizations().update_organization(request).await.map(drop)
    }

    async fn dissolve(&self, id: &str) -> Result<(), Status> {
        let request =
            DeleteOrganizationRequest { organization_id: id.into(), ..Default::default() };
        self.organizations().delete_organization(request).await.map(drop)
    }

    async fn join_in(&self, organization_id: &str, person_id: &str) -> Result<(), Status> {
        let request = AddOrganizationMemberRequest {
            organization_id: organization_id.into(),
            person_id: person_id.into(),
            ..Default::default()
        };
        self.organizations().add_organization_member(request).await.map(drop)
    }

    async fn leave(&self, organization_id: &str, person_id: &str) -> Result<(), Status> {
        let request = RemoveOrganizationMemberRequest {
            organization_id: organization_id.into(),
            person_id: person_id.into(),
            ..Default::default()
        };
        self.organizations().remove_organization_member(request).await.map(drop)
    }

    async fn hire(&self, id: &str) -> Result<(), Status> {
        let person = Person {
            kind: PersonKind::Staff.into(),
            display_name: format!("Person {id}"),
            ..somebody(id)
        };
        self.people()
            .create_person(CreatePersonRequest { person: Some(person), ..Default::default() })
            .await
            .map(drop)
    }

    async fn change_person(&self, person: Person, path: &str) -> Result<(), Status> {
        let request = UpdatePersonRequest {
            person: Some(person),
            update_mask: mask(&[path]),
            ..Default::default()
        };
        self.people().update_person(request).await.map(drop)
    }

    async fn set_active(&self, id: &str, active: bool) -> Result<(), Status> {
        self.change_person(Person { active: Some(active), ..somebody(id) }, "active").await
    }

    async fn set_kind(&self, id: &str, kind: PersonKind) -> Result<(), Status> {
        self.change_person(Person { kind: kind.into(), ..somebody(id) }, "kind").await
    }

    async fn dismiss(&self, id: &str) -> Result<(), Status> {
        let request = DeletePersonRequest { person_id: id.into(), ..Default::default() };
        self.people().delete_person(request).await.map(drop)
    }

    async fn manage(&self, account_id: &str, person_id: &str) -> Result<(), Status> {
        let account = Account { account_manager_id: person_id.into(), ..only(account_id) };
        self.update(account, &["account_manager_id"]).await.map(drop)
    }

    async fn rebind(&self, account_id: &str, organization_id: &str) -> Result<(), Status> {
        let account = Account { organization_id: organization_id.into(), ..only(account_id) };
        self.update(account, &["organization_id"]).await.map(drop)
    }

    async fn open(
        &self,
        account_id: &str,
        organization_id: &str,
        manager: &str,
    ) -> Result<(), Status> {
        let account =
            Account { account_manager_id: manager.into(), ..account(account_id, organization_id) };
        self.try_account(account).await.map(drop)
    }
}

fn somebody(id: &str) -> Person {
    Person { person_id: id.into(), ..Default::default() }
}

/// Success, or one of these reasons.
#[track_caller]
fn ok_or(answer: &Result<(), Status>, reasons: &[&str]) -> bool {
    let Err(status) = answer else { return true };
    let why = refusal(answer);
    assert!(reasons.contains(&&*why), "{why} is none of {reasons:?}: {status:?}");
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_that_would_close_a_ring_all_win_but_one() {
    let Some(scene) = Scene::set().await else { return };
    // One by itself, and one that goes below what is deep inside the next.
    for (size, levels, rounds) in [(2, 1, 40), (2, 3, 10), (3, 1, 25), (3, 2, 10), (5, 1, 10)] {
        for n in 0..size {
            scene.chain(&format!("r{size}-{levels}-{n}-"), levels).await;
        }
        let name = |n: usize, level: usize| format!("r{size}-{levels}-{}-{level}", n % size);
        for round in 0..rounds {
            let answers = join_all((0..size).map(|n| {
                let (from, to) = (name(n, 1), name(n + 1, levels));
                let tenant = scene.tenant.clone();
                async move { tenant.put(&from, &to).await }
            }))
            .await;
            let what = format!("a ring of {size} times {levels}, round {round}: {answers:?}");
            let lost: Vec<_> =
                answers.iter().filter(|answer| answer.is_err()).map(refusal).collect();
            assert_eq!(lost, ["ORGANIZATION_CYCLE"], "{what}");
            scene.check(&what).await;
            for n in 0..size {
                scene.tenant.put(&name(n, 1), "").await.unwrap();
            }
        }
        scene.check("all at the top again").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creations_below_an_organization_move_with_it() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    scene.chain("left", 4).await;
    scene.chain("right", 2).await;
    scene.chain("moved", 4).await;
    for round in 0..25 {
        let to = ["left4", "right2", ""][round % 3];
        let names: Vec<_> = (0..6).map(|n| format!("new{round}-{n}")).collect();
        let creations = join_all(names.iter().enumerate().map(|(n, name)| {
            let parent = ["moved1", "moved3", "moved4"][n % 3];
            tenant.child(name, parent)
        }));
        let (moved, cycle, renamed, created) = join4(
            tenant.put("moved1", to),
            tenant.put("moved2", "moved4"),
            join(
                tenant.rename("moved1", &format!("Round {round}")),
                tenant.rename("moved4", &format!("Round {round}")),
            ),
            creations,
        )
        .await;
        moved.unwrap();
        assert_eq!(refusal(&cycle), "ORGANIZATION_CYCLE");
        renamed.0.unwrap();
        renamed.1.unwrap();
        for answer in created {
            answer.unwrap();
        }
        scene.check(format!("round {round}")).await;
    }
}

/// The order in which a creation comes first, held in the middle: the move has to wait for it, and
/// takes the new one along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_and_a_creation_below_it_wait_for_each_other() {
    let Some((tenant, mut other, _)) = apart().await else { return };
    for (id, parent) in [("top", ""), ("middle", ""), ("low", "middle")] {
        tenant.organization(id, parent).await;
    }
    let held = other.transaction().await.unwrap();
    held.batch_execute("SELECT FROM organizations WHERE organization_id = 'low' FOR UPDATE")
        .await
        .unwrap();
    let creation = tokio::spawn({
        let tenant = tenant.clone();
        async move { tenant.child("new", "low").await }
    });
    waiting_for_locks(held.client(), 1).await;
    let (moving, deleting) = (tenant.clone(), tenant.clone());
    let moving = tokio::spawn(async move { moving.put("middle", "top").await });
    waiting_for_locks(held.client(), 2).await;
    let deleting = tokio::spawn(async move { deleting.dissolve("low").await });
    waiting_for_locks(held.client(), 3).await;
    held.commit().await.unwrap();
    creation.await.unwrap().unwrap();
    moving.await.unwrap().unwrap();
    assert_eq!(refusal(deleting.await.unwrap()), "ORGANIZATION_NOT_EMPTY");
    Scene { tenant, sql: other }.check("the new one moved along").await;
}

/// Of two changes, the one that began first but waited for a lock is the later one in the trail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activities_are_as_old_as_their_changes() {
    let Some((tenant, mut other, _)) = apart().await else { return };
    for (id, parent) in [("top", ""), ("middle", ""), ("a", "middle")] {
        tenant.organization(id, parent).await;
    }
    let held = other.transaction().await.unwrap();
    held.batch_execute("SELECT FROM tenants FOR UPDATE").await.unwrap();
    let moving = tokio::spawn({
        let tenant = tenant.clone();
        async move { tenant.put("a", "top").await }
    });
    waiting_for_locks(held.client(), 1).await;
    tenant.rename("a", "Renamed").await.unwrap();
    held.commit().await.unwrap();
    moving.await.unwrap().unwrap();
    let (resource_type, resource_id) = ("organization".into(), "a".into());
    let request = ListActivitiesRequest { resource_type, resource_id, ..Default::default() };
    let listed =
        tenant.activities().list_activities(request).await.unwrap().into_inner().activities;
    let changed: Vec<_> =
        listed.iter().take(2).map(|activity| &*activity.changes[0].field).collect();
    assert_eq!(changed, ["parent_id", "display_name"], "the newest first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_in_an_organization_that_is_deleted_meanwhile() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    tenant.organization("elsewhere", "").await;
    tenant.account(account("wanderer", "elsewhere")).await;
    let gone = ["ORGANIZATION_NOT_FOUND"];
    let (mut deleted, mut kept) = (0, 0);
    for round in 0..60 {
        let id = format!("o{round}");
        let (id, child, person) = (&*id, &*format!("child{round}"), &*format!("p{round}"));
        tenant.organization(id, ["", "elsewhere"][round % 2]).await;
        tenant.hire(person).await.unwrap();
        // One call against the deletion, then several at once. Which is sent first alternates.
        let filled = async {
            match round % 6 {
                0 => tenant.child(child, id).await,
                1 => tenant.open(child, id, "").await,
                2 => tenant.rebind("wanderer", id).await,
                3 => {
                    tenant.child(child, "").await.unwrap();
                    tenant.put(child, id).await
                }
                _ => {
                    let (one, two) =
                        join(tenant.open(child, id, person), tenant.child(child, id)).await;
                    ok_or(&one, &gone);
                    ok_or(&two, &gone);
                    one.or(two)
                }
            }
        };
        let (deletion, joined, renamed, filled) = if round % 4 < 2 {
            join4(
                tenant.dissolve(id),
                tenant.join_in(id, person),
                tenant.rename(id, "Other"),
                filled,
            )
            .await
        } else {
            let (filled, renamed, joined, deletion) = join4(
                filled,
                tenant.rename(id, "Other"),
                tenant.join_in(id, person),
                tenant.dissolve(id),
            )
            .await;
            (deletion, joined, renamed, filled)
        };
        ok_or(&joined, &gone);
        ok_or(&renamed, &gone);
        let was_filled = ok_or(&filled, &gone);
        let was_deleted = ok_or(&deletion, &["ORGANIZATION_NOT_EMPTY"]);
        assert!(was_deleted != was_filled, "round {round}: {deletion:?}, {filled:?}");
        *(if was_deleted { &mut deleted } else { &mut kept }) += 1;
        scene.check(format!("round {round}")).await;
        tenant.rebind("wanderer", "elsewhere").await.unwrap();
    }
    eprintln!("deleted {deleted}, kept {kept}");
    // The deletion of an empty one against everything that does not fill it: it always goes, once.
    for round in 0..15 {
        let (id, person) = (&*format!("e{round}"), &*format!("q{round}"));
        tenant.organization(id, "elsewhere").await;
        tenant.hire(person).await.unwrap();
        let (one, other, joined, left, fired) = join5(
            tenant.dissolve(id),
            tenant.dissolve(id),
            tenant.join_in(id, person),
            tenant.leave(id, person),
            tenant.dismiss(person),
        )
        .await;
        assert_eq!(
            u8::from(ok_or(&one, &gone)) + u8::from(ok_or(&other, &gone)),
            1,
            "{one:?} {other:?}"
        );
        ok_or(&joined, &["ORGANIZATION_NOT_FOUND", "PERSON_NOT_FOUND"]);
        ok_or(&left, &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_MEMBER_NOT_FOUND"]);
        fired.unwrap();
        scene.check(format!("empty, round {round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_goes_becomes_an_account_manager() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let refusals = ["PERSON_NOT_FOUND", "PERSON_INACTIVE", "PERSON_NOT_STAFF"];
    let (mut went, mut stayed) = (0, 0);
    for round in 0..60 {
        let (id, new) = (&*format!("p{round}"), &*format!("new{round}"));
        tenant.hire(id).await.unwrap();
        let going = async {
            match round % 3 {
                0 => tenant.dismiss(id).await,
                1 => tenant.set_active(id, false).await,
                _ => tenant.set_kind(id, PersonKind::Customer).await,
            }
        };
        let (goes, updated, created) = if round % 2 == 0 {
            join3(going, tenant.manage("a", id), tenant.open(new, "o", id)).await
        } else {
            let (created, updated, goes) =
                join3(tenant.open(new, "o", id), tenant.manage("a", id), going).await;
            (goes, updated, created)
        };
        let refusal = &refusals[round % 3..=round % 3];
        let (updated, created) = (ok_or(&updated, refusal), ok_or(&created, refusal));
        let has_gone = ok_or(&goes, &["PERSON_IN_USE"]);
        assert!(
            (updated, created) == (!has_gone, !has_gone),
            "round {round}: {goes:?}, {updated}, {created}"
        );
        *(if has_gone { &mut went } else { &mut stayed }) += 1;
        scene.check(format!("round {round}")).await;
        tenant.manage("a", "").await.unwrap();
    }
    eprintln!("went {went}, stayed {stayed}");
    // The present manager goes while the account lets them go, changes something else, or takes
    // another.
    tenant.hire("other").await.unwrap();
    for round in 0..20 {
        let id = &*format!("m{round}");
        tenant.hire(id).await.unwrap();
        tenant.manage("a", id).await.unwrap();
        let successor = ["", "other"][round % 2];
        let commented = Account { comment: format!("{round}"), ..only("a") };
        let (goes, let_go, commented) = join3(
            tenant.set_active(id, false),
            tenant.manage("a", successor),
            tenant.update(commented, &["comment"]),
        )
        .await;
        ok_or(&goes, &["PERSON_IN_USE"]);
        let_go.unwrap();
        commented.unwrap();
        scene.check(format!("with a successor, round {round}")).await;
        tenant.set_active(id, false).await.unwrap();
    }
}

/// The two orders, each held in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_a_manager_and_deactivating_them_wait_for_each_other() {
    let Some((tenant, mut other, _)) = apart().await else { return };
    tenant.organization("o", "").await;
    tenant.hire("p").await.unwrap();
    let background = |call: u8, tenant: Tenant| {
        tokio::spawn(async move {
            match call {
                0 => tenant.open("a", "o", "p").await,
                1 => tenant.set_active("p", false).await,
                2 => tenant.open("b", "o", "p").await,
                _ => tenant.dismiss("p").await,
            }
        })
    };
    // The creation has locked the manager and waits for the organization, so the calls that would
    // deactivate or delete the manager wait for the creation.
    let held = other.transaction().await.unwrap();
    held.batch_execute("SELECT FROM organizations FOR UPDATE").await.unwrap();
    let opening = background(0, tenant.clone());
    waiting_for_locks(held.client(), 1).await;
    let (deactivating, deleting) = (background(1, tenant.clone()), background(3, tenant.clone()));
    waiting_for_locks(held.client(), 3).await;
    held.commit().await.unwrap();
    opening.await.unwrap().unwrap();
    for answer in [deactivating.await.unwrap(), deleting.await.unwrap()] {
        assert_eq!(refusal(&answer), "PERSON_IN_USE");
    }
    tenant.manage("a", "").await.unwrap();
    // They are being deactivated: the account has to wait, and then does not get them.
    let held = other.transaction().await.unwrap();
    held.batch_execute("UPDATE people SET active = false").await.unwrap();
    let opening = background(2, tenant.clone());
    waiting_for_locks(held.client(), 1).await;
    held.commit().await.unwrap();
    assert_eq!(refusal(opening.await.unwrap()), "PERSON_INACTIVE");
    Scene { tenant, sql: other }.check("nobody inactive").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_changes_that_together_go_too_deep_do_not_both_win() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    scene.chain("c", 8).await;
    scene.chain("x", 8).await;
    scene.chain("y", 1).await;
    scene.chain("z", 15).await;
    let one_wins = |what: String, answers: [Result<(), Status>; 2]| {
        let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).map(refusal).collect();
        assert_eq!(lost, ["ORGANIZATION_TOO_DEEP"], "{what}: {answers:?}");
        answers[0].is_ok()
    };
    for round in 0..25 {
        // Eight below eight is just right, but one more below either is too much.
        let (one, other) = join(tenant.put("x1", "c8"), tenant.child("more", "x8")).await;
        let moved = one_wins(format!("move and creation, round {round}"), [one, other]);
        scene.check(format!("move and creation, round {round}")).await;
        tenant.put("x1", "").await.unwrap();
        if !moved {
            tenant.dissolve("more").await.unwrap();
        }
        let (one, other) = join(tenant.put("y1", "x8"), tenant.put("x1", "c8")).await;
        one_wins(format!("two moves, round {round}"), [one, other]);
        scene.check(format!("two moves, round {round}")).await;
        tenant.put("x1", "").await.unwrap();
        tenant.put("y1", "").await.unwrap();
        // Below fifteen levels there can be one more, but not two.
        let (one, other) = join(tenant.child("last", "z15"), tenant.put("z1", "y1")).await;
        let created = one_wins(format!("creation and move, round {round}"), [one, other]);
        scene.check(format!("creation and move, round {round}")).await;
        tenant.put("z1", "").await.unwrap();
        if created {
            tenant.dissolve("last").await.unwrap();
        }
    }
}

/// How often each call succeeded, and what the others were told.
type Tally = BTreeMap<(&'static str, String), u32>;

const ORGANIZATIONS: u64 = 40;
const PEOPLE: u64 = 8;
/// The organizations that people join and leave: the first so many.
const JOINED: u64 = 6;
const ACCOUNTS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_everybody_changes_stays_a_tree() {
    let Some(scene) = Scene::set().await else { return };
    let tally = Arc::new(Mutex::new(Tally::new()));
    // Five seconds, and longer on a machine that is so busy that something wanted has not come
    // about yet.
    let (end, limit) =
        (Instant::now() + Duration::from_secs(5), Instant::now() + Duration::from_mins(1));
    let mut dice = Dice::seeded(seed());
    let workers = (0..8).map(|_| {
        let (tenant, tally) = (scene.tenant.clone(), Arc::clone(&tally));
        let mut dice = dice.split();
        tokio::spawn(async move {
            loop {
                let now = Instant::now();
                if now > limit
                    || now > end
                        && WANTED
                            .iter()
                            .all(|(call, told)| times(&tally.lock().unwrap(), call, told) > 0)
                {
                    break;
                }
                let (call, answer, reasons) = something(&tenant, &mut dice).await;
                let told = if ok_or(&answer, &[reasons, &["CONFLICT"]].concat()) {
                    String::new()
                } else {
                    refusal(&answer)
                };
                *tally.lock().unwrap().entry((call, told)).or_default() += 1;
            }
        })
    });
    for worker in join_all(workers).await {
        worker.unwrap();
    }
    scene.check("after all").await;
    trail::balance(&scene.sql, &scene.tenant).await;
    let tally = tally.lock().unwrap().clone();
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = scene.sql.query_one(deadlocks, &[]).await.unwrap().get(0);
    eprintln!("{tally:?}, {deadlocks} deadlocks");
    for (call, told) in WANTED {
        assert!(times(&tally, call, told) > 0, "{call} never met {told:?}: {tally:?}");
    }
    let conflicts: u32 =
        tally.iter().filter(|((_, told), _)| told == "CONFLICT").map(|(_, count)| count).sum();
    assert!(
        conflicts * 100 <= tally.values().sum::<u32>(),
        "more than one in a hundred lost every race: {tally:?}"
    );
}

/// Calls that must have succeeded, or been told this, so that the test has tried something.
const WANTED: [(&str, &str); 12] = [
    ("create", ""),
    ("move", ""),
    ("delete", ""),
    ("rename", ""),
    ("open", ""),
    ("rebind", ""),
    ("close", ""),
    ("join", ""),
    ("staff", ""),
    ("list", ""),
    ("move", "ORGANIZATION_CYCLE"),
    ("delete", "ORGANIZATION_NOT_EMPTY"),
];

fn times(tally: &Tally, call: &'static str, told: &str) -> u32 {
    tally.get(&(call, told.to_owned())).copied().unwrap_or_default()
}

/// One call, its answer, and the reasons for which it may be refused.
async fn something(
    tenant: &Tenant,
    dice: &mut Dice,
) -> (&'static str, Result<(), Status>, &'static [&'static str]) {
    let organization = format!("o{}", dice.roll(ORGANIZATIONS));
    let above = format!("o{}", dice.roll(ORGANIZATIONS));
    let person = format!("p{}", dice.roll(PEOPLE));
    let account = format!("a{}", dice.roll(ACCOUNTS));
    let joined = format!("o{}", dice.roll(JOINED));
    match dice.roll(20) {
        0..5 => {
            let parent = if dice.roll(8) == 0 { "" } else { &above };
            let reasons =
                &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_ALREADY_EXISTS", "ORGANIZATION_TOO_DEEP"];
            ("create", tenant.child(&organization, parent).await, reasons)
        }
        5..9 => {
            let parent = if dice.roll(8) == 0 { "" } else { &above };
            let reasons =
                &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_CYCLE", "ORGANIZATION_TOO_DEEP"];
            ("move", tenant.put(&organization, parent).await, reasons)
        }
        9 => {
            let reasons = &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_NOT_EMPTY"];
            ("delete", tenant.dissolve(&organization).await, reasons)
        }
        10 => ("rename", tenant.rename(&organization, &above).await, &["ORGANIZATION_NOT_FOUND"]),
        11 => {
            let manager = if dice.roll(2) == 0 { "" } else { &person };
            let reasons = &[
                "ORGANIZATION_NOT_FOUND",
                "ACCOUNT_ALREADY_EXISTS",
                "PERSON_NOT_FOUND",
                "PERSON_INACTIVE",
                "PERSON_NOT_STAFF",
            ];
            ("open", tenant.open(&account, &organization, manager).await, reasons)
        }
        12 => (
            "rebind",
            tenant.rebind(&account, &organization).await,
            &["ACCOUNT_NOT_FOUND", "ORGANIZATION_NOT_FOUND"],
        ),
        13 => {
            let reasons =
                &["ACCOUNT_NOT_FOUND", "PERSON_NOT_FOUND", "PERSON_INACTIVE", "PERSON_NOT_STAFF"];
            ("manage", tenant.manage(&account, &person).await, reasons)
        }
        14 => ("close", tenant.delete(&account, "").await, &["ACCOUNT_NOT_FOUND"]),
        15 => (
            "join",
            tenant.join_in(&joined, &person).await,
            &["ORGANIZATION_NOT_FOUND", "PERSON_NOT_FOUND"],
        ),
        16 => {
            let reasons = &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_MEMBER_NOT_FOUND"];
            ("leave", tenant.leave(&joined, &person).await, reasons)
        }
        17 => ("staff", tenant.hire(&person).await, &["PERSON_ALREADY_EXISTS"]),
        18 => match dice.roll(4) {
            0 => ("fire", tenant.dismiss(&person).await, &["PERSON_NOT_FOUND", "PERSON_IN_USE"]),
            1 => {
                let kind = if dice.roll(2) == 0 { PersonKind::Staff } else { PersonKind::Customer };
                (
                    "kind",
                    tenant.set_kind(&person, kind).await,
                    &["PERSON_NOT_FOUND", "PERSON_IN_USE"],
                )
            }
            _ => {
                let active = dice.roll(3) > 0;
                (
                    "active",
                    tenant.set_active(&person, active).await,
                    &["PERSON_NOT_FOUND", "PERSON_IN_USE"],
                )
            }
        },
        _ => {
            let organization_id = organization.clone();
            let accounts = ListAccountsRequest {
                organization_id,
                include_descendants: true,
                ..Default::default()
            };
            let people = ListPeopleRequest {
                organization_id: organization,
                include_descendants: true,
                ..Default::default()
            };
            let listed = tenant.accounts().list_accounts(accounts).await.map(drop);
            let listed = listed.and(tenant.people().list_people(people).await.map(drop));
            ("list", listed, &[])
        }
    }
}

//! Concurrent calls that add and remove users of an account. A person who is named as a contact is
//! a user afterwards, whichever concurrent call would have removed them; and the settings of a user
//! are deleted with their last membership.

#![expect(clippy::large_futures, reason = "the calls of a race start together")]

use std::{future::Future, time::Duration};

use customer_accounts::proto::{
    Account, AccountUser, AddAccountUserRequest, CheckMembershipRequest, Contact,
    LinkOrganizationRequest, ListAccountsRequest, Person, PersonKind, RemoveAccountUserRequest,
    SetPurchasingAccountRequest, UnlinkOrganizationRequest, UpdateAccountUserRequest,
    google::r#type::Date,
};
use futures_util::future::{join, join3};
use tonic::Status;

use crate::support::{
    self, Tenant, account, anybody, apart,
    calls::{mask, only, only_person},
    refusal, waiting_for_locks,
};

const ROUNDS: usize = 25;

/// The people who hold a contact slot without being eligible for it.
const MISPLACED: &str = "
    WITH slots AS (
        SELECT account_id, unnest(ARRAY[primary_contact_id, billing_contact_id, cc_billing_contact_id]) AS person_id
        FROM accounts WHERE tenant_id = $1
    )
    SELECT account_id || ' ' || person_id FROM slots AS s WHERE person_id IS NOT NULL AND NOT (
        EXISTS (SELECT FROM people AS p
            WHERE p.tenant_id = $1 AND p.person_id = s.person_id AND p.active AND p.kind = 'CUSTOMER')
        AND (EXISTS (SELECT FROM account_users AS u WHERE u.tenant_id = $1 AND u.account_id = s.account_id
                AND u.person_id = s.person_id AND individual AND end_date IS NULL
                AND coalesce(start_date <= (now() AT TIME ZONE 'UTC')::date, true))
            OR EXISTS (SELECT FROM organization_members AS m
                JOIN organization_ancestors AS a USING (tenant_id, organization_id)
                JOIN account_organizations AS l ON l.tenant_id = $1 AND l.organization_id = a.ancestor_id
                WHERE m.tenant_id = $1 AND l.account_id = s.account_id AND m.person_id = s.person_id
                    AND (distance = 0 OR include_descendants))))";

/// What is set for people whom nothing makes a user.
const LEFT_OVER: &str = "
    SELECT account_id || ' ' || person_id FROM account_users AS u WHERE tenant_id = $1 AND NOT individual AND NOT EXISTS (
        SELECT FROM organization_members AS m
            JOIN organization_ancestors AS a USING (tenant_id, organization_id)
            JOIN account_organizations AS l ON l.tenant_id = $1 AND l.organization_id = a.ancestor_id
            WHERE m.tenant_id = $1 AND l.account_id = u.account_id AND m.person_id = u.person_id
                AND (distance = 0 OR include_descendants))";

struct Scene {
    tenant: Tenant,
    sql: tokio_postgres::Client,
}

impl Scene {
    async fn set() -> Option<Self> {
        let (tenant, sql, _) = apart().await?;
        Some(Self { tenant, sql })
    }

    #[track_caller]
    fn check(&self, what: impl std::fmt::Display) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for (query, bad) in [
                (MISPLACED, "in a slot, but no user"),
                (LEFT_OVER, "no user, but with something set"),
            ] {
                let rows = self.sql.query(query, &[&self.tenant.caller.tenant]).await.unwrap();
                let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                assert_eq!(rows, Vec::<String>::new(), "{caller}: {bad}: {what}");
            }
        }
    }

    /// Races naming a person the billing contact of their account with what takes the account from
    /// them. Either wins; the other learns why not. The first is given a start by another number of
    /// calls in each round.
    async fn race<F: Future<Output = Result<(), Status>>>(
        &self,
        name: &str,
        prepare: impl AsyncFn(&Tenant, &Place),
        take: impl Fn(Tenant, Place) -> F,
        why_no_contact: &[&str],
    ) {
        let (mut named, mut taken) = (0, 0);
        for round in 0..ROUNDS {
            let place = Place::new(name, round);
            let tenant = &self.tenant;
            tenant.organization(&place.top, "").await;
            tenant.organization(&place.below, &place.top).await;
            tenant.organization(&place.apart, "").await;
            tenant.account(account(&place.account, &place.apart)).await;
            tenant.person(&place.person).await;
            prepare(tenant, &place).await;
            let name_contact = async {
                head_start(tenant, round % 3).await;
                tenant.name_contact(&place.account, &place.person).await
            };
            let take_away = async {
                head_start(tenant, round / 3 % 3).await;
                take(tenant.clone(), place.clone()).await
            };
            let (contact, gone) = join(name_contact, take_away).await;
            let what = format!("{name}, round {round}: {contact:?} {gone:?}");
            self.check(&what).await;
            // One of the two, and never both.
            assert!(contact.is_ok() != gone.is_ok(), "{what}");
            if contact.is_ok() {
                named += 1;
                let why = refusal(gone);
                assert!(["CONTACT_SLOT_HELD", "CONFLICT"].contains(&&*why), "{what}");
                let request = CheckMembershipRequest {
                    account_id: place.account.clone(),
                    person_id: place.person.clone(),
                };
                let answer =
                    tenant.memberships().check_membership(request).await.unwrap().into_inner();
                assert!(answer.is_user, "{what}");
            } else {
                taken += 1;
                let why = refusal(contact);
                assert!(why_no_contact.contains(&&*why) || why == "CONFLICT", "{what}");
            }
        }
        eprintln!("{name}: {named} times named, {taken} times taken");
    }
}

/// Lets the other call of a race get ahead by as many calls.
async fn head_start(tenant: &Tenant, calls: usize) {
    for _ in 0..calls {
        tenant.list_people(customer_accounts::proto::ListPeopleRequest::default()).await;
    }
}

/// What a round of a race works on: an organization below another, and an account of a third.
#[derive(Debug, Clone)]
struct Place {
    top: String,
    below: String,
    apart: String,
    account: String,
    person: String,
}

impl Place {
    fn new(name: &str, round: usize) -> Self {
        let id = |what: &str| format!("{name}-{round}-{what}");
        Self {
            top: id("top"),
            below: id("below"),
            apart: id("apart"),
            account: id("account"),
            person: id("person"),
        }
    }
}

/// The calls of the races.
impl Tenant {
    async fn name_contact(&self, account_id: &str, person_id: &str) -> Result<(), Status> {
        let wanted = Account { billing_contact_id: person_id.into(), ..only(account_id) };
        self.update(wanted, &["billing_contact_id"]).await.map(drop)
    }

    async fn add_user_now(&self, account_id: &str, person_id: &str) -> Result<(), Status> {
        let (account_id, person_id) = (account_id.into(), person_id.into());
        let request = AddAccountUserRequest { account_id, person_id, ..Default::default() };
        self.memberships().add_account_user(request).await.map(drop)
    }

    async fn remove_user_now(&self, account_id: &str, person_id: &str) -> Result<(), Status> {
        let (account_id, person_id) = (account_id.into(), person_id.into());
        let request = RemoveAccountUserRequest { account_id, person_id, ..Default::default() };
        self.memberships().remove_account_user(request).await.map(drop)
    }

    async fn update_user_now(&self, user: AccountUser, path: &str) -> Result<(), Status> {
        let request = UpdateAccountUserRequest {
            account_user: Some(user),
            update_mask: mask(&[path]),
            ..Default::default()
        };
        self.memberships().update_account_user(request).await.map(drop)
    }

    async fn set_roles(&self, account_id: &str, person_id: &str) -> Result<(), Status> {
        let (account_id, person_id) = (account_id.into(), person_id.into());
        let user = AccountUser {
            account_id,
            person_id,
            roles: vec!["buyer".into()],
            ..Default::default()
        };
        self.update_user_now(user, "roles").await
    }

    async fn link_now(
        &self,
        account_id: &str,
        organization_id: &str,
        include_descendants: bool,
    ) -> Result<(), Status> {
        let (account_id, organization_id) = (account_id.into(), organization_id.into());
        let request = LinkOrganizationRequest {
            account_id,
            organization_id,
            include_descendants,
            ..Default::default()
        };
        self.memberships().link_organization(request).await.map(drop)
    }

    async fn unlink_now(&self, account_id: &str, organization_id: &str) -> Result<(), Status> {
        let (account_id, organization_id) = (account_id.into(), organization_id.into());
        let request =
            UnlinkOrganizationRequest { account_id, organization_id, ..Default::default() };
        self.memberships().unlink_organization(request).await.map(drop)
    }

    async fn belong(&self, account_id: &str, organization_id: &str) -> Result<(), Status> {
        let wanted = Account { organization_id: organization_id.into(), ..only(account_id) };
        self.update(wanted, &["organization_id"]).await.map(drop)
    }
}

/// The person is a user by name.
async fn by_name(tenant: &Tenant, place: &Place) {
    tenant.add_user_now(&place.account, &place.person).await.unwrap();
}

/// The person is a member of the organization below, which the link of the one above covers.
async fn through_a_link(tenant: &Tenant, place: &Place) {
    tenant.link_now(&place.account, &place.top, true).await.unwrap();
    tenant.add_member(&place.below, &place.person).await.unwrap();
}

/// The person is a member of the account's own organization.
async fn through_its_own(tenant: &Tenant, place: &Place) {
    tenant.add_member(&place.apart, &place.person).await.unwrap();
}

const NO_USER: [&str; 1] = ["NOT_AN_ACCOUNT_USER"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_their_individual_membership_ends_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let remove = async |t: Tenant, p: Place| t.remove_user_now(&p.account, &p.person).await;
    scene.race("remove", by_name, remove, &NO_USER).await;
    let end = async |t: Tenant, p: Place| {
        let end_date = Some(Date { year: 2999, month: 12, day: 31 });
        t.update_user_now(
            AccountUser {
                account_id: p.account,
                person_id: p.person,
                end_date,
                ..Default::default()
            },
            "end_date",
        )
        .await
    };
    scene.race("end", by_name, end, &["CONTACT_MEMBERSHIP_ENDS"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_the_link_ends_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let unlink = async |t: Tenant, p: Place| t.unlink_now(&p.account, &p.top).await;
    scene.race("unlink", through_a_link, unlink, &NO_USER).await;
    let narrow = async |t: Tenant, p: Place| t.link_now(&p.account, &p.top, false).await;
    scene.race("narrow", through_a_link, narrow, &NO_USER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_they_leave_the_organization_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let leave = async |t: Tenant, p: Place| t.remove_member(&p.below, &p.person).await;
    scene.race("leave", through_a_link, leave, &NO_USER).await;
    let leave = async |t: Tenant, p: Place| t.remove_member(&p.apart, &p.person).await;
    scene.race("leave-own", through_its_own, leave, &NO_USER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_they_are_deactivated_or_deleted_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let deactivate = async |t: Tenant, p: Place| {
        t.update_person(Person { active: Some(false), ..only_person(&p.person) }, &["active"])
            .await
            .map(drop)
    };
    scene.race("deactivate", by_name, deactivate, &["PERSON_INACTIVE"]).await;
    let employ = async |t: Tenant, p: Place| {
        let staff = Person { kind: PersonKind::Staff.into(), ..only_person(&p.person) };
        t.update_person(staff, &["kind"]).await.map(drop)
    };
    scene.race("employ", through_a_link, employ, &["PERSON_NOT_CUSTOMER"]).await;
    let delete = async |t: Tenant, p: Place| t.delete_person(&p.person, "").await;
    scene.race("delete", through_a_link, delete, &["PERSON_NOT_FOUND"]).await;
    scene.race("delete-named", by_name, delete, &["PERSON_NOT_FOUND"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_the_organization_moves_out_or_is_deleted_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let out = async |t: Tenant, p: Place| t.move_organization(&p.below, "").await.map(drop);
    scene.race("move", through_a_link, out, &NO_USER).await;
    let delete = async |t: Tenant, p: Place| t.delete_organization(&p.below, "").await;
    scene.race("dissolve", through_a_link, delete, &NO_USER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_named_while_the_account_changes_its_organization_is_a_user() {
    let Some(scene) = Scene::set().await else { return };
    let change = async |t: Tenant, p: Place| t.belong(&p.account, &p.top).await;
    scene.race("belong", through_its_own, change, &NO_USER).await;
}

/// Covered by a link through one organization, and by the account's own: the contact keeps one of
/// the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_covered_twice_keeps_one_of_the_two() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    for round in 0..ROUNDS {
        let place = Place::new("twice", round);
        covered_twice(tenant, &place).await;
        tenant.name_contact(&place.account, &place.person).await.unwrap();
        let (left, unlinked) = join(
            tenant.remove_member(&place.apart, &place.person),
            tenant.unlink_now(&place.account, &place.top),
        )
        .await;
        let what = format!("round {round}: {left:?} {unlinked:?}");
        scene.check(&what).await;
        assert!(left.is_ok() != unlinked.is_ok(), "{what}");
        let why = refusal(if left.is_ok() { unlinked } else { left });
        assert!(["CONTACT_SLOT_HELD", "CONFLICT"].contains(&&*why), "{what}");
    }
}

/// How the contact becomes a user only through an organization that moves at the same time: they
/// join it, and then they leave the other organization, it is unlinked, or the account moves out of
/// it.
const WAYS: [&str; 3] = ["leaves", "unlinked", "belongs"];

impl Scene {
    /// Makes a person the billing contact of an account. They are a user of it through its own
    /// organization, or for `unlinked` through another one that is linked. The tree of `top` is
    /// linked as well.
    async fn contact_elsewhere(&self, way: &str, place: &Place) {
        let tenant = &self.tenant;
        tenant.organization(&place.apart, "").await;
        tenant.organization(&place.other(), "").await;
        tenant.account(account(&place.account, &place.apart)).await;
        tenant.link_now(&place.account, &place.top, true).await.unwrap();
        tenant.link_now(&place.account, &place.other(), false).await.unwrap();
        tenant.person(&place.person).await;
        let joined = if way == "unlinked" { place.other() } else { place.apart.clone() };
        tenant.add_member(&joined, &place.person).await.unwrap();
        tenant.name_contact(&place.account, &place.person).await.unwrap();
    }
}

impl Place {
    fn other(&self) -> String {
        format!("{}-other", self.account)
    }

    /// An organization below the one that moves, since the move has locked the row of that one.
    fn deep(&self) -> String {
        format!("{}-0", self.below)
    }
}

impl Tenant {
    /// The contact joins the organization below, and then loses what made them a user before.
    async fn change_places(&self, way: &str, place: &Place) -> Result<(), Status> {
        self.add_member(&place.deep(), &place.person).await?;
        match way {
            "leaves" => self.remove_member(&place.apart, &place.person).await,
            "unlinked" => self.unlink_now(&place.account, &place.other()).await,
            _ => self.belong(&place.account, &place.other()).await,
        }
    }
}

/// A move that has found everyone below the organization, and waits for one of them: nobody joins
/// these until it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_to_depend_on_an_organization_that_is_about_to_move() {
    let Some(mut scene) = Scene::set().await else { return };
    for way in WAYS {
        let place = Place::new(way, 0);
        scene.tenant.organization(&place.top, "").await;
        scene.tenant.organization(&place.below, &place.top).await;
        scene.tenant.organization(&place.deep(), &place.below).await;
        scene.contact_elsewhere(way, &place).await;
        // Somebody below for whom something is set, and whose row another transaction has.
        let held = format!("held-{way}");
        scene.tenant.person(&held).await;
        scene.tenant.add_member(&place.below, &held).await.unwrap();
        scene.tenant.set_roles(&place.account, &held).await.unwrap();
        let other = scene.sql.transaction().await.unwrap();
        other
            .batch_execute(&format!("SELECT FROM people WHERE person_id = '{held}' FOR UPDATE"))
            .await
            .unwrap();
        let (tenant, below) = (scene.tenant.clone(), place.below.clone());
        let moving =
            tokio::spawn(async move { tenant.move_organization(&below, "").await.map(drop) });
        waiting_for_locks(other.client(), 1).await;
        let (tenant, changed) = (scene.tenant.clone(), place.clone());
        let changing = tokio::spawn(async move { tenant.change_places(way, &changed).await });
        // Without a wait it comes to its end meanwhile.
        tokio::select! {
            () = waiting_for_locks(other.client(), 2) => {}
            () = eventually_finished(&changing) => {}
        }
        other.commit().await.unwrap();
        let (moved, changed) = (moving.await.unwrap(), changing.await.unwrap());
        scene.check(format!("{way}: {moved:?} {changed:?}")).await;
        assert_eq!((moved.is_ok(), &*refusal(changed)), (true, "CONTACT_SLOT_HELD"), "{way}");
    }
}

async fn eventually_finished<T>(task: &tokio::task::JoinHandle<T>) {
    let finished = async move || task.is_finished().then_some(());
    support::eventually(Duration::from_secs(10), "the call to end", finished).await;
}

/// Moves a tree while the contact changes to an organization in it, each first in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_who_changes_places_while_an_organization_moves_is_a_user() {
    const ROUNDS: usize = 40;
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    for way in WAYS {
        let (top, below) = (format!("{way}-top"), format!("{way}-below"));
        tenant.organization(&top, "").await;
        tenant.organization(&below, &top).await;
        // So that a move takes a while.
        for n in 0..60 {
            tenant.organization(&format!("{below}-{n}"), &below).await;
        }
        let (mut moved, mut changed) = (0, 0);
        for round in 0..ROUNDS {
            let place = Place { top: top.clone(), below: below.clone(), ..Place::new(way, round) };
            scene.contact_elsewhere(way, &place).await;
            let out = async {
                head_start(tenant, round / 4 % 2).await;
                tenant.move_organization(&below, "").await.map(drop)
            };
            let change = async {
                head_start(tenant, round % 4).await;
                tenant.change_places(way, &place).await
            };
            let (out, change) = join(out, change).await;
            let what = format!("{way}, round {round}: {out:?} {change:?}");
            scene.check(&what).await;
            assert!(out.is_ok() != change.is_ok(), "{what}");
            *(if out.is_ok() { &mut moved } else { &mut changed }) += 1;
            if out.is_ok() {
                tenant.move_organization(&below, &top).await.unwrap();
            }
            let why = refusal(if out.is_ok() { change } else { out });
            assert!(["CONTACT_SLOT_HELD", "CONFLICT"].contains(&&*why), "{what}");
            // Out of the way of the next round.
            tenant.update(only(&place.account), &["billing_contact_id"]).await.unwrap();
        }
        eprintln!("{way}: {moved} times moved, {changed} times changed");
    }
}

async fn covered_twice(tenant: &Tenant, place: &Place) {
    tenant.organization(&place.top, "").await;
    tenant.organization(&place.below, &place.top).await;
    tenant.organization(&place.apart, "").await;
    tenant.account(account(&place.account, &place.apart)).await;
    tenant.person(&place.person).await;
    through_a_link(tenant, place).await;
    through_its_own(tenant, place).await;
}

/// Nobody is a contact here, so both ways of being a user may end at once, and the roles have to go
/// with the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_of_a_user_covered_twice_go_with_the_last_of_the_two() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    for round in 0..ROUNDS {
        for (name, way) in [("unlink", 0), ("move", 1), ("remove", 2)] {
            let place = Place::new(name, round);
            covered_twice(tenant, &place).await;
            tenant.set_roles(&place.account, &place.person).await.unwrap();
            let second = async {
                match way {
                    0 => tenant.unlink_now(&place.account, &place.top).await,
                    1 => tenant.move_organization(&place.below, "").await.map(drop),
                    _ => tenant.remove_member(&place.below, &place.person).await,
                }
            };
            let (left, other) =
                join(tenant.remove_member(&place.apart, &place.person), second).await;
            let what = format!("{name}, round {round}: {left:?} {other:?}");
            scene.check(&what).await;
            left.unwrap();
            other.unwrap();
        }
    }
}

/// Roles set while the person stops being a user: they are gone with that, or the call comes too
/// late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_set_while_the_user_goes_are_not_left_behind() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    for round in 0..ROUNDS {
        for (name, way) in
            [("unlink", 0), ("move", 1), ("leave", 2), ("dissolve", 3), ("unlink+move", 4)]
        {
            let place = Place::new(name, round);
            tenant.organization(&place.top, "").await;
            tenant.organization(&place.below, &place.top).await;
            tenant.organization(&place.apart, "").await;
            tenant.account(account(&place.account, &place.apart)).await;
            tenant.person(&place.person).await;
            through_a_link(tenant, &place).await;
            let out = async || tenant.move_organization(&place.below, "").await.map(drop);
            let take = async {
                head_start(tenant, round % 2).await;
                match way {
                    0 => tenant.unlink_now(&place.account, &place.top).await,
                    1 => out().await,
                    2 => tenant.remove_member(&place.below, &place.person).await,
                    3 => tenant.delete_organization(&place.below, "").await,
                    _ => {
                        let (unlinked, moved) =
                            join(tenant.unlink_now(&place.account, &place.top), out()).await;
                        unlinked.and(moved)
                    }
                }
            };
            let billing = async {
                let user = AccountUser {
                    account_id: place.account.clone(),
                    person_id: place.person.clone(),
                    billing: true,
                    ..Default::default()
                };
                tenant.update_user_now(user, "billing").await
            };
            let (set, flagged, taken) =
                join3(tenant.set_roles(&place.account, &place.person), billing, take).await;
            let what = format!("{name}, round {round}: {set:?} {flagged:?} {taken:?}");
            scene.check(&what).await;
            taken.unwrap();
            for answer in [set, flagged] {
                if answer.is_err() {
                    assert_eq!(refusal(answer), "ACCOUNT_USER_NOT_FOUND", "{what}");
                }
            }
        }
    }
}

/// Memberships whose place in lists is not their person's.
const MISSORTED: &str = "
    SELECT m.person_id FROM (
        SELECT tenant_id, person_id, sort_key, person_create_time FROM organization_members
        UNION ALL SELECT tenant_id, person_id, sort_key, person_create_time FROM account_users
    ) AS m JOIN people AS p USING (tenant_id, person_id)
    WHERE tenant_id = $1 AND (m.sort_key, m.person_create_time) IS DISTINCT FROM (p.sort_key, p.create_time)";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_goes_along_with_memberships_made_at_the_same_time() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    tenant.organization("crowd", "").await;
    tenant.organization("vendor", "").await;
    tenant.account(account("a", "vendor")).await;
    for round in 0..ROUNDS {
        let id = format!("person-{round}");
        tenant.person(&id).await;
        let new = Person { display_name: format!("Renamed {round}"), ..only_person(&id) };
        let rename = async {
            head_start(tenant, round % 3).await;
            tenant.update_person(new, &["display_name"]).await.map(drop)
        };
        let add = AddAccountUserRequest {
            account_id: "a".into(),
            person_id: id.clone(),
            ..Default::default()
        };
        let add = async { tenant.memberships().add_account_user(add).await.map(drop) };
        // And a person who is a user through an organization and has settings of their own.
        let through = format!("member-{round}");
        tenant.person(&through).await;
        tenant.add_member("vendor", &through).await.unwrap();
        let renamed = Person { display_name: format!("Renamed {round}"), ..only_person(&through) };
        let rename_through = async {
            head_start(tenant, round % 3).await;
            tenant.update_person(renamed, &["display_name"]).await.map(drop)
        };
        let through = join(rename_through, tenant.set_roles("a", &through));
        let (answers, through) =
            join(join3(rename, tenant.add_member("crowd", &id), add), through).await;
        assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok(), "{answers:?}");
        assert!(through.0.is_ok() && through.1.is_ok(), "{through:?}");
    }
    assert_eq!(scene.sql.query(MISSORTED, &[&tenant.caller.tenant]).await.unwrap().len(), 0);
}

/// The account has no copy of the person's name that one of the two could spoil.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_name_of_the_primary_contact_is_found_whatever_happens_to_the_account() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = &scene.tenant;
    tenant.organization("vendor", "").await;
    tenant.person("ann").await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let found = async |query: &str| {
        tenant.list(ListAccountsRequest { query: query.into(), ..Default::default() }).await
    };
    for round in 0..40 {
        let id = &*format!("a{round}");
        let contact = || Some(Contact { person_id: "ann".into(), ..Default::default() });
        let named = Account { primary_contact: contact(), ..account(id, "vendor") };
        let before = if round % 2 == 0 { contact() } else { anybody() };
        tenant.account(Account { primary_contact: before, ..account(id, "vendor") }).await;
        let new = Person { display_name: format!("Renamed{round}"), ..only_person("ann") };
        let rename = async {
            head_start(tenant, round % 3).await;
            tenant.update_person(new, &["display_name"]).await.map(drop)
        };
        let change = async {
            head_start(tenant, round / 3 % 3).await;
            let named = Account { display_name: format!("Changed{round}"), ..named };
            tenant.update(named, &["display_name", "primary_contact"]).await.map(drop)
        };
        let (renamed, changed) = join(rename, change).await;
        assert!(renamed.is_ok() && changed.is_ok(), "round {round}: {renamed:?} {changed:?}");
        let (by_name, by_contact) =
            (found(&format!("changed{round}")).await, found(&format!("renamed{round} {id}")).await);
        assert_eq!(
            (by_name, by_contact),
            (vec![id.to_owned()], vec![id.to_owned()]),
            "round {round}"
        );
        let old = found(&format!("renamed{}", round.wrapping_sub(1))).await;
        assert_eq!(old, [""; 0], "round {round}");
        tenant
            .update(Account { primary_contact: anybody(), ..only(id) }, &["primary_contact"])
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_a_purchasing_account_waits_for_the_account_before_taking_the_person() {
    let Some(scene) = Scene::set().await else { return };
    let tenant = scene.tenant.clone();
    tenant.organization("vendor", "").await;
    tenant.account(account("a", "vendor")).await;
    tenant.person("ann").await;
    tenant.add_member("vendor", "ann").await.unwrap();
    let other = "BEGIN; SELECT FROM accounts WHERE account_id = 'a' FOR UPDATE";
    scene.sql.batch_execute(other).await.unwrap();
    let request = SetPurchasingAccountRequest {
        person_id: "ann".into(),
        account_id: "a".into(),
        ..Default::default()
    };
    let call =
        tokio::spawn(async move { tenant.memberships().set_purchasing_account(request).await });
    waiting_for_locks(&scene.sql, 1).await;
    // The waiting call has not locked the person: calls lock the account first. So this lock on the
    // person is free.
    scene
        .sql
        .batch_execute("SELECT FROM people WHERE person_id = 'ann' FOR UPDATE NOWAIT; COMMIT")
        .await
        .unwrap();
    let person = call.await.unwrap().unwrap().into_inner().person.unwrap();
    assert_eq!(person.purchasing_account_id, "a");
}

//! Query plans for callers with a limited reach, on the database of `memberships`. The callers are
//! managers of the whole tree, of a region of 585 organizations, of a district of 73, and of one
//! office.

use customer_accounts::proto::{
    CheckMembershipRequest, ListAccountsRequest, ListActivitiesRequest, ListPeopleRequest,
};

use super::{ANY, List, Measured, Plan, Uses, memberships};
use crate::support;

const MANAGERS: [&str; 4] = ["all", "region", "district", "office"];

/// A service that such a manager calls, and whose queries are explained.
async fn measured(manager: &str) -> Option<Measured> {
    let on = memberships::measured().await?;
    let tenant = on.tenant.reaching(manager, "viewer");
    Some(Measured { tenant, ..on })
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_in_reach_are_listed_out_of_an_index_whatever_the_reach() {
    for manager in MANAGERS {
        let Some(on) = measured(manager).await else { return };
        for order_by in 1..=4 {
            let list = List::Accounts(ListAccountsRequest { order_by, ..Default::default() });
            let (rows, plan) = list.plan(&on, "").await;
            assert_eq!(rows, 50, "{manager}");
            plan.check(&format!("{manager}: {list:?}"), &ANY, 4500);
            eprintln!("{manager}, order {order_by}: {} pages", plan.pages());
        }
        let of_a_person =
            ListAccountsRequest { person_id: memberships::person(0), ..Default::default() };
        let (_, plan) = List::Accounts(of_a_person).plan(&on, "").await;
        plan.check(manager, &Uses("account_users_person_idx", "person_id = "), 4500);
    }
}

/// Where the accounts in reach are few they are named, and elsewhere the next change to one of them
/// is not far.
#[tokio::test(flavor = "multi_thread")]
async fn the_trail_in_reach_is_found_without_walking_all_of_it() {
    for (manager, top, pages) in [
        ("all", "unit-1", 1000),
        ("region", "unit-3", 2000),
        ("district", "unit-17", 15_000),
        ("office", "unit-1999", 500),
    ] {
        let Some(on) = measured(manager).await else { return };
        let sql = support::sql(&memberships::filled().await.unwrap().url).await;
        let expected = "SELECT activity_id FROM activities AS a JOIN accounts USING (tenant_id, account_id) \
                        JOIN organization_ancestors AS o USING (tenant_id, organization_id) \
                        WHERE tenant_id = $1 AND ancestor_id = $2 ORDER BY a.create_time DESC LIMIT 50";
        let expected = sql.query(expected, &[&on.tenant.caller.tenant, &top]).await.unwrap();
        let expected: Vec<String> = expected.iter().map(|row| row.get(0)).collect();
        assert!(!expected.is_empty());
        let response = on
            .tenant
            .activities()
            .list_activities(ListActivitiesRequest::default())
            .await
            .unwrap()
            .into_inner();
        let found: Vec<_> =
            response.activities.into_iter().map(|activity| activity.activity_id).collect();
        assert_eq!(found, expected, "{manager}");
        let plan = on.plan("ORDER BY \"activities\"").await;
        plan.check(manager, &Uses("activities_", "tenant_id"), pages);
        eprintln!("{manager}: {} activities, {} pages", found.len(), plan.pages());
    }
}

/// Where little is in reach the people in reach are found first, and elsewhere the next one is not
/// far.
#[tokio::test(flavor = "multi_thread")]
async fn people_in_reach_are_found_without_walking_all_or_finding_all_in_reach() {
    for (manager, pages) in MANAGERS.into_iter().zip([2000, 4000, 15_000, 1500]) {
        let Some(on) = measured(manager).await else { return };
        for query in ["", "name"] {
            let list =
                List::People(ListPeopleRequest { query: query.into(), ..Default::default() });
            let (rows, plan) = list.plan(&on, "").await;
            assert_eq!(rows, 50, "{manager}");
            plan.check(&format!("{manager}: {list:?}"), &ANY, pages);
            eprintln!("{manager} {query:?}: {} pages", plan.pages());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_or_person_is_found_with_a_look_at_their_organizations() {
    for manager in MANAGERS {
        let Some(on) = measured(manager).await else { return };
        // Some of these are in the reach of some.
        for n in [0, 1998, 16_016, 20_002, 21_998] {
            // The first is a user of more than a hundred accounts, each of which is looked at.
            let pages = if n == 0 { 900 } else { 250 };
            let _ = on.tenant.get_person(&memberships::person(n)).await;
            let plan = on.plan("FROM \"people\" WHERE").await;
            plan.check(
                &format!("{manager}: person {n}"),
                &Uses("people_pkey", "person_id = "),
                pages,
            );
            let _ = on.tenant.get(&format!("acct-{n}")).await;
            on.plan("FROM \"accounts\" WHERE").await.check(
                manager,
                &Uses("accounts_pkey", "account_id = "),
                40,
            );
            let request = CheckMembershipRequest {
                account_id: format!("acct-{n}"),
                person_id: memberships::person(n),
            };
            let _ = on.tenant.memberships().check_membership(request).await;
            for mut query in on.queries().await {
                Plan(query["Plan"].take()).check(&format!("{manager}: check of {n}"), &ANY, pages);
            }
        }
    }
}

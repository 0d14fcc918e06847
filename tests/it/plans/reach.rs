//! The queries of callers who see a part of the tenant, on the database of `memberships`: who manages everything, a region of
//! 585 organizations, a district of 73, and one office.

use customer_accounts::proto::{CheckMembershipRequest, ListAccountsRequest, ListPeopleRequest};

use super::{ANY, List, Measured, Plan, Uses, memberships};

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
        let of_a_person = ListAccountsRequest { person_id: memberships::person(0), ..Default::default() };
        let (_, plan) = List::Accounts(of_a_person).plan(&on, "").await;
        plan.check(manager, &Uses("account_users_person_idx", "person_id = "), 4500);
    }
}

/// Who is in reach is found out once a page: that costs the accounts in reach, not those of the tenant, and not the people.
#[tokio::test(flavor = "multi_thread")]
async fn people_in_reach_cost_the_accounts_in_reach() {
    for (manager, pages) in MANAGERS.into_iter().zip([20_000, 12_000, 50_000, 1500]) {
        let Some(on) = measured(manager).await else { return };
        for query in ["", "name"] {
            let list = List::People(ListPeopleRequest { query: query.into(), ..Default::default() });
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
            let _ = on.tenant.get_person(&memberships::person(n)).await;
            let plan = on.plan("FROM \"people\" WHERE").await;
            plan.check(&format!("{manager}: person {n}"), &Uses("people_pkey", "person_id = "), 250);
            let _ = on.tenant.get(&format!("acct-{n}")).await;
            on.plan("FROM \"accounts\" WHERE").await.check(manager, &Uses("accounts_pkey", "account_id = "), 40);
            let request = CheckMembershipRequest { account_id: format!("acct-{n}"), person_id: memberships::person(n) };
            let _ = on.tenant.memberships().check_membership(request).await;
            for mut query in on.queries().await {
                Plan(query["Plan"].take()).check(&format!("{manager}: check of {n}"), &ANY, 250);
            }
        }
    }
}

//! The calls that are measured. Each checks its answer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use customer_accounts_client::{
    Client,
    prost_types::FieldMask,
    tonic::{Code, Status},
    v1::{
        Account, AccountStatus, BatchCheckMembershipsRequest, BatchGetAccountsRequest,
        CalculateRecurringRevenueRequest, CheckMembershipRequest, CheckMembershipResponse, Contact,
        CreateAccountRequest, GetAccountRequest, ListAccountUsersRequest, ListAccountsRequest,
        ListAccountsResponse, ListBillingRecipientsRequest, UpdateAccountRequest,
    },
};

use crate::{
    data::{
        BIG, Data, EMPTY, INDIVIDUAL, LINKED, OTHERS, SUBSCRIBED, SUBSCRIPTIONS, TREE, USERS_FROM,
        WITH_USERS, account_id, account_name, person_id, tenant,
    },
    load::Call,
};

/// Connections of the load.
pub const CONNECTIONS: usize = 4;
/// Rows of a page or of a batch.
const PAGE: usize = 50;
/// The first number of the accounts that the benchmark creates.
const CREATED: u64 = 1_000_000_000;

/// A server under load.
pub struct Target {
    /// By connection, then by tenant.
    clients: Vec<Vec<Client>>,
    data: Data,
    /// Page tokens of the middle and the last page of `ListAccounts`.
    pages: [String; 2],
    /// Numbers of what is created, and of calls that take turns.
    next: Arc<AtomicU64>,
}

/// The baselines that take turns with a case in each round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Echo and plain tonic with Diesel, at the same number in flight; and `pgbench`.
    Everything,
    /// The statements of the call by `pgbench`.
    Statements,
    Nothing,
}

/// One kind of call.
pub struct Case {
    pub name: &'static str,
    /// Numbers in flight.
    pub levels: &'static [usize],
    pub beside: Beside,
    pub call: fn(Arc<Target>) -> Call,
}

const ALL: &[usize] = &[1, 8, 64, 256];
/// For calls of so many milliseconds that 64 in flight would wait longer than the pool lets them.
const FEW: &[usize] = &[1, 8];

/// All cases, those that write last.
pub const CASES: &[Case] = &[
    Case { name: "GetAccount, one tenant", levels: ALL, beside: Beside::Everything, call: get },
    Case {
        name: "GetAccount, 64 tenants in turn",
        levels: ALL,
        beside: Beside::Everything,
        call: get_in_turn,
    },
    Case {
        name: "GetAccount, after a tenant without rows",
        levels: ALL,
        beside: Beside::Nothing,
        call: get_after_empty,
    },
    Case { name: "BatchGetAccounts, 50", levels: ALL, beside: Beside::Statements, call: batch_get },
    Case { name: "CheckMembership", levels: ALL, beside: Beside::Statements, call: check },
    Case {
        name: "BatchCheckMemberships, 50",
        levels: &[1, 8, 64],
        beside: Beside::Nothing,
        call: batch_check,
    },
    Case {
        name: "ListAccounts, first page",
        levels: ALL,
        beside: Beside::Statements,
        call: |on| list(on, |_| ListAccountsRequest::default(), |_| true, PAGE),
    },
    Case {
        name: "ListAccounts, middle page",
        levels: ALL,
        beside: Beside::Nothing,
        call: |on| list(on, |on| page(&on.pages[0]), |_| true, PAGE),
    },
    Case {
        name: "ListAccounts, last page",
        levels: ALL,
        beside: Beside::Nothing,
        call: |on| list(on, |on| page(&on.pages[1]), |_| true, PAGE),
    },
    Case {
        name: "ListAccounts, status and type",
        levels: ALL,
        beside: Beside::Statements,
        call: filtered,
    },
    Case {
        name: "ListAccounts, rare word",
        levels: ALL,
        beside: Beside::Statements,
        call: |on| list(on, |_| search("rare"), |it| it.display_name.contains(" rare "), 1),
    },
    Case {
        name: "ListAccounts, common word late in the order",
        levels: FEW,
        beside: Beside::Statements,
        call: |on| list(on, |_| search("late"), |it| it.display_name.contains(" late "), PAGE),
    },
    Case {
        name: "ListAccounts, subtree of an organization",
        levels: FEW,
        beside: Beside::Statements,
        call: subtree,
    },
    Case {
        name: "ListAccountUsers, 26 users",
        levels: &[1, 8, 64],
        beside: Beside::Statements,
        call: users,
    },
    Case {
        name: "ListAccountUsers, 5,000 users",
        levels: &[1, 8, 64],
        beside: Beside::Nothing,
        call: |on| users_of(on, BIG),
    },
    Case {
        name: "ListAccountUsers, 2,000 organizations",
        levels: &[1],
        beside: Beside::Nothing,
        call: |on| users_of(on, LINKED),
    },
    Case {
        name: "ListBillingRecipients",
        levels: ALL,
        beside: Beside::Statements,
        call: recipients,
    },
    Case {
        name: "CalculateRecurringRevenue, 10,000 subscriptions",
        levels: FEW,
        beside: Beside::Statements,
        call: revenue,
    },
    Case {
        name: "CreateAccount",
        levels: ALL,
        beside: Beside::Statements,
        call: |on| create(on, false),
    },
    Case {
        name: "CreateAccount, with request_id",
        levels: ALL,
        beside: Beside::Statements,
        call: |on| create(on, true),
    },
    Case { name: "UpdateAccount", levels: ALL, beside: Beside::Statements, call: update },
];

impl Target {
    /// A target without page tokens yet.
    pub fn new(clients: Vec<Vec<Client>>, data: Data, next: Arc<AtomicU64>) -> Self {
        Self { clients, data, pages: Default::default(), next }
    }

    /// Walks through the list of accounts to find the tokens of its middle and last page.
    pub async fn walk(&mut self) -> Result<(), String> {
        let mut tokens = Vec::new();
        let mut request = ListAccountsRequest::default();
        loop {
            let answer = self.client(0, 0).accounts().list_accounts(request).await;
            let answer = answer.map_err(wrong)?.into_inner();
            if answer.next_page_token.is_empty() {
                break;
            }
            request = page(&answer.next_page_token);
            tokens.push(answer.next_page_token);
        }
        let last = tokens.last().ok_or("the list has one page only")?.clone();
        self.pages = [tokens.swap_remove(tokens.len() / 2), last];
        Ok(())
    }

    /// A client of `main`.
    pub fn first(&self) -> &Client {
        self.client(0, 0)
    }

    fn client(&self, worker: usize, tenant: usize) -> &Client {
        &self.clients[worker % self.clients.len()][tenant]
    }

    /// The organizations of `main`.
    pub fn organizations(&self) -> u64 {
        self.data.main.organizations
    }

    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the argument of `map_err`")]
fn wrong(status: Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An account of this tenant, whichever it is.
fn check_account(tenant: &str, account: &Account) -> Result<u64, String> {
    let n = account.account_id.parse::<u64>().ok().and_then(|id| id.checked_sub(1_000_000));
    let n = n.ok_or_else(|| format!("an account of {tenant} with the id {account:?}"))?;
    let right = if n < CREATED {
        account.display_name == account_name(tenant, n)
    } else {
        account.display_name.starts_with(&format!("{tenant} new"))
    };
    right.then_some(n).ok_or_else(|| format!("asked as {tenant}, answered {account:?}"))
}

/// The account of this number and tenant.
fn check_one(tenant: &str, n: u64, account: Option<&Account>) -> Result<(), String> {
    let account = account.ok_or("an answer without an account")?;
    let found = check_account(tenant, account)?;
    (found == n).then_some(()).ok_or_else(|| format!("asked for {n}, answered {found}"))
}

async fn get_one(on: &Target, worker: usize, number: usize) -> Result<(), String> {
    let n = fastrand::u64(1..=on.data.size(number).accounts);
    let request = GetAccountRequest { account_id: account_id(n) };
    let answer = on.client(worker, number).accounts().get_account(request).await.map_err(wrong)?;
    check_one(&tenant(number), n, answer.into_inner().account.as_ref())
}

fn get(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move { get_one(&on, worker, 0).await })
    })
}

fn get_in_turn(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            let number = 1 + usize::try_from(on.next()).unwrap() % OTHERS;
            get_one(&on, worker, number).await
        })
    })
}

/// A tenant without rows asks for an account of `main`, and every other call is one of `main`.
fn get_after_empty(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            if on.next().is_multiple_of(2) {
                return get_one(&on, worker, 0).await;
            }
            let n = fastrand::u64(1..=on.data.main.accounts);
            let request = GetAccountRequest { account_id: account_id(n) };
            match on.client(worker, EMPTY).accounts().get_account(request).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                Err(status) => Err(wrong(status)),
                Ok(answer) => Err(format!("a tenant without rows got {answer:?}")),
            }
        })
    })
}

fn batch_get(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            // Distinct, because an answer has each account once.
            let step = on.data.main.accounts / PAGE as u64;
            let numbers: Vec<_> =
                (0..PAGE as u64).map(|n| 1 + n * step + fastrand::u64(0..step)).collect();
            let account_ids = numbers.iter().map(|n| account_id(*n)).collect();
            let request = BatchGetAccountsRequest { account_ids };
            let answer = on.client(worker, 0).accounts().batch_get_accounts(request).await;
            let accounts = answer.map_err(wrong)?.into_inner().accounts;
            if accounts.len() != PAGE {
                return Err(format!("asked for {PAGE} accounts, answered {}", accounts.len()));
            }
            numbers.iter().zip(&accounts).try_for_each(|(n, it)| check_one("main", *n, Some(it)))
        })
    })
}

/// A question about a membership, and whether the answer is right.
fn question(on: &Target) -> (CheckMembershipRequest, impl Fn(&CheckMembershipResponse) -> bool) {
    let size = on.data.main;
    let n = fastrand::u64(USERS_FROM..=size.accounts);
    let organization = size.organization(n);
    let kind = fastrand::u64(0..3);
    let person = match kind {
        0 => size.user(n, 0),
        1 => organization - 1, // a member of the account's organization
        // Neither: the organization has no such member, and the account no such user.
        _ => (organization + 100) % size.people,
    };
    let request =
        CheckMembershipRequest { account_id: account_id(n), person_id: person_id(person) };
    (request, move |answer| {
        answer.is_user == (kind < 2)
            && answer.individual == (kind == 0)
            && match &*answer.organization_ids {
                [] => kind != 1,
                [one] => kind == 1 && *one == format!("org-{organization}"),
                _ => false,
            }
    })
}

fn check(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            let (request, right) = question(&on);
            let client = on.client(worker, 0);
            let answer = client.memberships().check_membership(request.clone()).await;
            let answer = answer.map_err(wrong)?.into_inner();
            right(&answer).then_some(()).ok_or_else(|| format!("{request:?}: {answer:?}"))
        })
    })
}

fn batch_check(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            let (requests, right): (Vec<_>, Vec<_>) = (0..PAGE).map(|_| question(&on)).unzip();
            let request = BatchCheckMembershipsRequest { requests };
            let client = on.client(worker, 0);
            let answer = client.memberships().batch_check_memberships(request).await;
            let answers = answer.map_err(wrong)?.into_inner().responses;
            let all =
                answers.len() == PAGE && right.iter().zip(&answers).all(|(right, it)| right(it));
            all.then_some(()).ok_or_else(|| format!("{answers:?}"))
        })
    })
}

fn page(token: &str) -> ListAccountsRequest {
    ListAccountsRequest { page_token: token.into(), ..Default::default() }
}

fn search(query: &str) -> ListAccountsRequest {
    ListAccountsRequest { query: query.into(), ..Default::default() }
}

/// A page of accounts of `main`, in order, with at least so many rows, all of which match.
fn list(
    on: Arc<Target>,
    request: impl Fn(&Target) -> ListAccountsRequest + Send + Sync + 'static,
    matches: fn(&Account) -> bool,
    least: usize,
) -> Call {
    let request = request(&on);
    Arc::new(move |worker| {
        let (on, request) = (on.clone(), request.clone());
        Box::pin(async move {
            let client = on.client(worker, 0);
            let answer = client.accounts().list_accounts(request).await.map_err(wrong)?;
            check_list(&answer.into_inner(), matches, least)
        })
    })
}

fn check_list(
    answer: &ListAccountsResponse,
    matches: fn(&Account) -> bool,
    least: usize,
) -> Result<(), String> {
    for account in &answer.accounts {
        check_account("main", account)?;
        if !matches(account) {
            return Err(format!("does not match the filter: {account:?}"));
        }
    }
    if answer.accounts.len() < least {
        return Err(format!("{} accounts in a page, not {least}", answer.accounts.len()));
    }
    if !answer.accounts.is_sorted_by(|a, b| a.display_name <= b.display_name) {
        return Err("a page is not in order".into());
    }
    Ok(())
}

fn filtered(on: Arc<Target>) -> Call {
    let request = |_: &Target| ListAccountsRequest {
        statuses: vec![AccountStatus::Suspended.into()],
        account_type_id: "type-2".into(),
        ..Default::default()
    };
    let matches =
        |it: &Account| it.status() == AccountStatus::Suspended && it.account_type_id == "type-2";
    list(on, request, matches, 30)
}

fn subtree(on: Arc<Target>) -> Call {
    let request = |_: &Target| ListAccountsRequest {
        organization_id: "org-1".into(),
        include_descendants: true,
        ..Default::default()
    };
    let matches = |it: &Account| {
        it.organization_id[4..].parse::<u64>().is_ok_and(|n| (1..=TREE).contains(&n))
    };
    list(on, request, matches, PAGE)
}

fn users(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        let n = fastrand::u64(USERS_FROM..USERS_FROM + WITH_USERS);
        let members = on.data.main.people / on.data.main.organizations;
        Box::pin(async move { check_users(&on, worker, n, INDIVIDUAL + members).await })
    })
}

fn users_of(on: Arc<Target>, n: u64) -> Call {
    let users = if n == BIG { on.data.main.big() } else { PAGE as u64 };
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move { check_users(&on, worker, n, users.min(PAGE as u64)).await })
    })
}

async fn check_users(on: &Target, worker: usize, n: u64, wanted: u64) -> Result<(), String> {
    let request = ListAccountUsersRequest { account_id: account_id(n), ..Default::default() };
    let answer = on.client(worker, 0).memberships().list_account_users(request).await;
    let users = answer.map_err(wrong)?.into_inner().account_users;
    let organization = on.data.main.organization(n);
    for user in &users {
        let person = user.person_id.parse::<u64>().unwrap_or_default().wrapping_sub(50_000_000);
        let individual = (0..INDIVIDUAL).any(|j| person == on.data.main.user(n, j));
        let right = match n {
            BIG => user.individual && person % 10 == 0,
            LINKED => !user.individual && !user.organization_ids.is_empty(),
            _ if individual => user.individual && user.organization_ids.is_empty(),
            _ => user.organization_ids == [format!("org-{organization}")],
        };
        if !right || user.account_id != account_id(n) {
            return Err(format!("no user of {n}: {user:?}"));
        }
    }
    let count = users.len() as u64;
    (count == wanted).then_some(()).ok_or_else(|| format!("{count} users of {n}, not {wanted}"))
}

fn recipients(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            let n = fastrand::u64(USERS_FROM..USERS_FROM + WITH_USERS);
            let request =
                ListBillingRecipientsRequest { account_id: account_id(n), ..Default::default() };
            let client = on.client(worker, 0);
            let answer = client.memberships().list_billing_recipients(request).await;
            let mut found: Vec<_> = answer.map_err(wrong)?.into_inner().recipients;
            found.sort_by(|a, b| a.person_id.cmp(&b.person_id));
            let mut wanted: Vec<_> = (0..3).map(|j| person_id(on.data.main.user(n, j))).collect();
            wanted.sort();
            let right = found.iter().map(|it| &it.person_id).eq(&wanted);
            right.then_some(()).ok_or_else(|| format!("recipients of {n}: {found:?}"))
        })
    })
}

fn revenue(on: Arc<Target>) -> Call {
    // One is paid every so many years: multiplied with the least common multiple of 1 to 12, a
    // month's share of it is a whole number. Prices are thousandths, discounts millionths.
    let year = 27_720;
    let a_month: u64 =
        (0..SUBSCRIPTIONS).map(|n| n * 3 * (1_000_000 - n) * (year / (1 + n % 12))).sum();
    let cents = 10 * 1_000_000 * year * 12;
    let cents = (2 * a_month + cents) / (2 * cents); // rounded half up
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            let request = CalculateRecurringRevenueRequest {
                account_id: account_id(SUBSCRIBED),
                ..Default::default()
            };
            let client = on.client(worker, 0);
            let answer = client.commerce().calculate_recurring_revenue(request).await;
            let answer = answer.map_err(wrong)?.into_inner();
            let [one] = &*answer.recurring_revenue else {
                return Err(format!("not one currency: {answer:?}"));
            };
            let mrr = one.mrr.clone().unwrap_or_default();
            let found = mrr.units * 100 + i64::from(mrr.nanos / 10_000_000);
            let right = u64::try_from(found) == Ok(cents)
                && u64::try_from(answer.subscription_count) == Ok(SUBSCRIPTIONS);
            right.then_some(()).ok_or_else(|| format!("not {cents} cents: {answer:?}"))
        })
    })
}

fn create(on: Arc<Target>, with_request_id: bool) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move { create_one(&on, worker, with_request_id).await.map(drop) })
    })
}

/// Creates an account of `main`, and returns its id.
pub async fn create_one(
    on: &Target,
    worker: usize,
    with_request_id: bool,
) -> Result<String, String> {
    let id = account_id(CREATED + on.next());
    let name = format!("main new {id}");
    let account = Account {
        account_id: id.clone(),
        display_name: name.clone(),
        organization_id: format!("org-{}", fastrand::u64(1..=on.data.main.organizations)),
        primary_contact: Some(Contact {
            name: "Purchasing".into(),
            email: "purchasing@acme.example".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request_id = if with_request_id { format!("request-{id}") } else { String::new() };
    let request = CreateAccountRequest { account: Some(account), request_id, ..Default::default() };
    let answer = on.client(worker, 0).accounts().create_account(request).await.map_err(wrong)?;
    let account = answer.into_inner().account.unwrap_or_default();
    let right = account.account_id == id && account.display_name == name;
    right.then_some(id).ok_or_else(|| format!("created {name}, answered {account:?}"))
}

fn update(on: Arc<Target>) -> Call {
    Arc::new(move |worker| {
        let on = on.clone();
        Box::pin(async move {
            // `pgbench` updates the odd ones.
            let n = 2 * fastrand::u64(1..=on.data.main.accounts / 2);
            let comment = format!("comment {}", on.next());
            let account = Account {
                account_id: account_id(n),
                comment: comment.clone(),
                ..Default::default()
            };
            let request = UpdateAccountRequest {
                account: Some(account),
                update_mask: Some(FieldMask { paths: vec!["comment".into()] }),
                ..Default::default()
            };
            let client = on.client(worker, 0);
            let answer = client.accounts().update_account(request).await.map_err(wrong)?;
            let account = answer.into_inner().account;
            check_one("main", n, account.as_ref())?;
            let right = account.is_some_and(|account| account.comment == comment);
            right.then_some(()).ok_or_else(|| format!("the comment of {n} is not {comment}"))
        })
    })
}

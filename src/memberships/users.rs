//! The users of an account: one of them, and the list.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    dsl::AsSelect,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{Array, Nullable, Text},
};
use diesel_async::RunQueryDsl;
use futures_util::{TryStreamExt as _, future::try_join4};

use super::refusals;
use crate::{
    accounts::store::Account,
    budget::{self, Weighed},
    change::Versioned,
    db::{Condition, Tx, WriteTx},
    error::{Error, Result},
    page::{Listed, Listing, Page},
    people::sources::{Merged, Sources},
    people::store::Person,
    relations::{
        settings::{Fields, UserSettings},
        slots::{self, Guard, Scope, Slot},
        sources::through,
    },
    schema::{accounts, people},
    wire::etag,
};

/// What a user takes in an answer beside the person, roles and organizations.
const ROW: usize = 128;

/// The etag of someone for whom nothing is set on the account.
const NOTHING_SET: &str = "0";

/// A user of an account, with everything they are one through.
#[derive(Debug, Clone)]
pub struct User {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person: Person,
    /// Their settings on the account, if there are any.
    pub record: Option<UserSettings>,
    /// The organizations through which they are a user.
    pub organization_ids: Vec<String>,
    /// The contact slots that they hold on the account.
    pub slots: Vec<Slot>,
    /// The day of [`User::in_force`].
    pub today: NaiveDate,
}

/// A user of an account whose settings the transaction is about to change: the account, the tree
/// and the person are locked.
#[derive(Debug)]
pub struct HeldUser<'a> {
    /// The user.
    pub user: User,
    account: Account,
    guard: Guard<'a>,
}

impl<'a> HeldUser<'a> {
    /// Locks the account, the tree and the person, and returns the user. Fails if nothing makes the
    /// person a user of the account.
    pub async fn find(tx: &WriteTx, account_id: &str, person_id: &'a str) -> Result<Self> {
        let account = Account::find_for_update(tx, account_id).await?;
        // Without the lock, a move of an organization could end the membership while this
        // transaction sets something for it.
        tx.lock_tree_shared().await?;
        let guard = slots::guard(tx, Scope::Person(person_id)).await?;
        let user = User::find(tx, account_id, person_id).await?;
        let user = user.ok_or_else(|| refusals::account_user_not_found(account_id, person_id))?;
        Ok(Self { user, account, guard })
    }

    /// Writes the settings of the user.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<User> {
        let Self { user: User { account_id, person, record, .. }, account, guard } = self;
        UserSettings::put(tx, &account, &person, record, fields).await?;
        guard.verify(tx).await?;
        let updated = User::find(tx, &account_id, &person.person_id).await?;
        updated.ok_or_else(|| refusals::account_user_not_found(&account_id, &person.person_id))
    }

    /// Ends the individual membership. Returns the user if the person still is one, through
    /// organizations. Fails if the person is a user through organizations only.
    pub async fn remove(self, tx: &WriteTx) -> Result<Option<User>> {
        let Self { user, account, guard } = self;
        if !user.is_individual() {
            let (person_id, through) = (&user.person.person_id, &user.organization_ids);
            return Err(refusals::user_through_organization(&user.account_id, person_id, through));
        }
        UserSettings::remove(tx, &account, &user).await?;
        guard.verify(tx).await?;
        User::find(tx, &user.account_id, &user.person.person_id).await
    }
}

impl Versioned for User {
    fn etag(&self) -> String {
        let record = self.record.as_ref();
        record.map_or_else(|| NOTHING_SET.to_owned(), |set| etag(set.create_time, set.revision))
    }

    fn mismatch(&self) -> Error {
        refusals::account_user_changed(&self.account_id, &self.person.person_id)
    }
}

impl Versioned for HeldUser<'_> {
    fn etag(&self) -> String {
        self.user.etag()
    }

    fn mismatch(&self) -> Error {
        self.user.mismatch()
    }
}

impl Weighed for User {
    fn weight(&self) -> usize {
        let set = self.record.as_ref().map_or(0, |record| budget::list(&record.fields.roles));
        self.account_id.len()
            + self.person.weight()
            + budget::list(&self.organization_ids)
            + set
            + ROW
    }
}

impl Listed for User {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        self.person.key()
    }
}

/// Which users of an account a list shows.
#[derive(Debug)]
pub struct UserFilter {
    /// The account.
    pub account_id: String,
    /// Search terms; empty for all.
    pub query: String,
    /// Whether to list those, too, who are not users today.
    pub show_not_in_force: bool,
}

impl User {
    /// Whether they were added individually, whatever the dates.
    pub fn is_individual(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.fields.individual)
    }

    /// Whether they are a user today.
    pub fn in_force(&self) -> bool {
        let individually =
            self.record.as_ref().is_some_and(|record| record.fields.individual_on(self.today));
        self.person.fields.active && (individually || !self.organization_ids.is_empty())
    }

    /// Whether `RemoveAccountUser` can end the individual membership.
    pub fn is_removable(&self) -> bool {
        self.is_individual() && (self.slots.is_empty() || !self.organization_ids.is_empty())
    }

    /// Returns the user, or `None` if nothing makes the person one.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Option<Self>> {
        let person = async {
            let person = people::table
                .filter(tx.owns(people::tenant_id))
                .filter(people::person_id.eq(person_id))
                .select(Person::as_select());
            Ok(person.first::<Person>(&mut tx.conn()).await.optional()?)
        };
        let account_ids = [account_id.to_owned()];
        let (person, record, mut organizations, holders) = try_join4(
            person,
            UserSettings::find(tx, account_id, person_id),
            through(tx, &account_ids, person_id),
            slots::held_on(tx, account_id),
        )
        .await?;
        let organization_ids = organizations.remove(account_id).unwrap_or_default();
        let slots = holders
            .into_iter()
            .filter(|holder| holder.person_id == person_id)
            .map(|holder| holder.slot)
            .collect();
        let today = tx.today().await?;
        let user = |person| Self {
            account_id: account_id.to_owned(),
            person,
            record,
            organization_ids,
            slots,
            today,
        };
        Ok(person
            .map(user)
            .filter(|user| user.is_individual() || !user.organization_ids.is_empty()))
    }

    /// Returns one page of the users of an account: those in force, or all who have a source.
    pub async fn list(tx: &Tx, filter: &UserFilter, page: &Page) -> Result<Listing<Self>> {
        let account_id = filter.account_id.as_str();
        let conditions = || {
            let mut conditions = Person::found_by(tx, &filter.query);
            if !filter.show_not_in_force {
                conditions.push(Box::new(people::active) as Condition<people::table>);
            }
            conditions
        };
        let on = if filter.show_not_in_force { None } else { Some(tx.today().await?) };
        let sources = Sources::Account { account_id, on };
        let total = Merged::count(tx, sources, conditions, page).await?;
        let merged = Merged::new(tx, sources, conditions(), page)?;
        let rows = Users { account_id, columns: columns(), merged }
            .load_stream::<Row>(&mut tx.conn())
            .await?;
        let today = tx.today().await?;
        let user = |(person, record, primary, billing, cc, organization_ids): Row| {
            let slots = slots::held(&[primary, billing, cc], &person.person_id);
            let account_id = account_id.to_owned();
            Self { account_id, person, record, organization_ids, slots, today }
        };
        let users = page.read(tx, total, rows.map_ok(user)).await?;
        // The list itself does not tell whether the account exists and is in reach.
        if users.rows.is_empty() || tx.is_limited() || tx.module_off_somewhere() {
            Account::find(tx, account_id).await?;
        }
        Ok(users)
    }
}

/// What the list reads of each user: person, record, the account's contacts, and the organizations.
type Row =
    (Person, Option<UserSettings>, Option<String>, Option<String>, Option<String>, Vec<String>);

type Columns = (
    AsSelect<Person, Pg>,
    AsSelect<Option<UserSettings>, Pg>,
    accounts::primary_contact_id,
    accounts::billing_contact_id,
    accounts::cc_billing_contact_id,
);

fn columns() -> Columns {
    let contacts = (
        accounts::primary_contact_id,
        accounts::billing_contact_id,
        accounts::cc_billing_contact_id,
    );
    (Person::as_select(), Option::<UserSettings>::as_select(), contacts.0, contacts.1, contacts.2)
}

/// The query of the list: no rows if there is no such account.
struct Users<'a> {
    account_id: &'a str,
    columns: Columns,
    merged: Merged<'a>,
}

impl QueryFragment<Pg> for Users<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // The account is read once, not for each user.
        out.push_sql(
            "WITH accounts AS MATERIALIZED (SELECT * FROM accounts WHERE accounts.tenant_id = ",
        );
        out.push_bind_param::<Text, _>(self.merged.tenant_id())?;
        out.push_sql(" AND accounts.account_id = ");
        out.push_bind_param::<Text, _>(self.account_id)?;
        out.push_sql(") SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(", page.organization_ids FROM (");
        self.merged.walk_ast(out.reborrow())?;
        out.push_sql(") AS page JOIN people ON people.tenant_id = ");
        out.push_bind_param::<Text, _>(self.merged.tenant_id())?;
        out.push_sql(" AND people.person_id = page.person_id JOIN accounts ON accounts.tenant_id = people.tenant_id");
        // LATERAL with a LIMIT: a plain join may be planned as a scan of all users of the account
        // for each row of the page.
        out.push_sql(
            " LEFT JOIN LATERAL (SELECT * FROM account_users AS own \
             WHERE own.tenant_id = accounts.tenant_id AND own.account_id = accounts.account_id \
             AND own.person_id = page.person_id LIMIT 1) AS account_users ON true",
        );
        let direction = self.merged.direction();
        out.push_sql(&format!(" ORDER BY page.key{direction}, page.person_id{direction}"));
        Ok(())
    }
}

impl Query for Users<'_> {
    type SqlType = (
        AsSelect<Person, Pg>,
        AsSelect<Option<UserSettings>, Pg>,
        Nullable<Text>,
        Nullable<Text>,
        Nullable<Text>,
        Array<Text>,
    );
}

/// Cached by its text, which differs with order and filters.
impl QueryId for Users<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

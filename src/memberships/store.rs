//! The settings of people on accounts: individual membership, roles, billing flag; and the query
//! for the links that make a person a user through organizations.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{refusals, users::User};
use crate::{
    accounts::store::Account,
    db::{AccountRef, BelongsTo, Recorded, Tx, WriteTx},
    error::Result,
    id,
    people::refusals::person_inactive,
    people::store::Person,
    schema::{account_organizations, account_users, organization_members},
};

/// The query for members of organizations joined with the links that cover them. Each row is a
/// source of membership.
macro_rules! covered {
    ($tx:expr) => {{
        use $crate::schema::{account_organizations, organization_ancestors, organization_members};
        organization_members::table
            .filter($tx.owns(organization_members::tenant_id))
            .inner_join(
                organization_ancestors::table.on(organization_ancestors::tenant_id
                    .eq(organization_members::tenant_id)
                    .and(
                        organization_ancestors::organization_id
                            .eq(organization_members::organization_id),
                    )),
            )
            .inner_join(account_organizations::table.on(
                account_organizations::tenant_id.eq(organization_ancestors::tenant_id).and(
                    account_organizations::organization_id.eq(organization_ancestors::ancestor_id),
                ),
            ))
            .filter(
                organization_ancestors::distance
                    .eq(0)
                    .or(account_organizations::include_descendants),
            )
    }};
}
pub(super) use covered;

/// The settings of a person on an account.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Serialize)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg))]
pub struct UserSettings {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// Counts the changes; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
}

/// The settings that a caller can change.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg), treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Whether the person was added individually.
    pub individual: bool,
    /// Roles on the account, in alphabetical order.
    pub roles: Vec<String>,
    /// Whether the person gets the invoices.
    pub billing: bool,
    /// The first day of the individual membership; `None` is from the beginning.
    pub start_date: Option<NaiveDate>,
    /// The last day of the individual membership, included; `None` is without end.
    pub end_date: Option<NaiveDate>,
}

impl Fields {
    /// Whether the person is an individual user on a day.
    pub fn individual_on(&self, day: NaiveDate) -> bool {
        self.individual
            && self.start_date.is_none_or(|start| start <= day)
            && self.end_date.is_none_or(|end| end >= day)
    }
}

/// A person to become an individual user.
#[derive(Debug)]
pub struct NewUser {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// Their settings.
    pub fields: Fields,
}

impl NewUser {
    /// Adds the person. A person who is a user through an organization keeps their settings where
    /// the request gives none. Locks the account, the tree and the person. Fails if the person is
    /// inactive or already an individual user.
    pub async fn insert(&self, tx: &WriteTx) -> Result<User> {
        let account = Account::find_for_update(tx, &self.account_id).await?;
        tx.lock_tree_shared().await?;
        let person = Person::find_and_hold(tx, &self.person_id).await?;
        if !person.fields.active {
            return Err(person_inactive(&person.person_id));
        }
        let current = UserSettings::find(tx, &self.account_id, &self.person_id).await?;
        let mut fields = self.fields(&tx.tenant().await?.settings.membership_roles)?;
        if let Some(current) = &current {
            if current.fields.individual {
                let (account_id, person_id) = (&self.account_id, &self.person_id);
                return Err(refusals::account_user_already_exists(account_id, person_id));
            }
            if fields.roles.is_empty() {
                fields.roles.clone_from(&current.fields.roles);
            }
            fields.billing |= current.fields.billing;
        }
        UserSettings::put(tx, &account, &person, current, &fields).await?;
        User::find(tx, &self.account_id, &self.person_id)
            .await?
            .ok_or_else(|| refusals::account_user_not_found(&self.account_id, &self.person_id))
    }
}

/// Returns the organizations through which a person is a user of these accounts, by account.
pub async fn through(
    tx: &Tx,
    account_ids: &[String],
    person_id: &str,
) -> Result<BTreeMap<String, Vec<String>>> {
    let rows = covered!(tx)
        .filter(account_organizations::account_id.eq_any(account_ids))
        .filter(organization_members::person_id.eq(person_id))
        .select((account_organizations::account_id, organization_members::organization_id))
        .distinct()
        .order(organization_members::organization_id)
        .load::<(String, String)>(&mut tx.conn())
        .await?;
    let mut through = BTreeMap::<_, Vec<String>>::new();
    for (account_id, organization_id) in rows {
        through.entry(account_id).or_default().push(organization_id);
    }
    Ok(through)
}

impl UserSettings {
    /// Returns the settings of a person on an account, if there are any.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Option<Self>> {
        Ok(account_users::table
            .filter(tx.owns(account_users::tenant_id))
            .filter(
                account_users::account_id
                    .eq(account_id)
                    .and(account_users::person_id.eq(person_id)),
            )
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?)
    }

    /// Writes the settings of a person on an account, if they differ from the current ones. The
    /// caller must hold the account and the person.
    pub async fn put(
        tx: &WriteTx,
        account: &Account,
        person: &Person,
        current: Option<Self>,
        fields: &Fields,
    ) -> Result<()> {
        let (account_id, person_id) = (&account.account_id, &person.person_id);
        // A person without a row has the default settings.
        if current.as_ref().map_or_else(Fields::default, |current| current.fields.clone())
            == *fields
        {
            return Ok(());
        }
        let now = if let Some(current) = &current {
            diesel::update(account_users::table.filter(tx.owns(account_users::tenant_id)))
                .filter(
                    account_users::account_id
                        .eq(account_id)
                        .and(account_users::person_id.eq(person_id)),
                )
                .set((
                    fields,
                    account_users::revision.eq(current.revision + 1),
                    account_users::update_time.eq(diesel::dsl::now),
                ))
                .returning(Self::as_returning())
                .get_result::<Self>(&mut tx.conn())
                .await?
        } else {
            diesel::insert_into(account_users::table)
                .values((
                    tx.owns(account_users::tenant_id),
                    account_users::account_id.eq(account_id),
                    account_users::person_id.eq(person_id),
                    account_users::sort_key.eq(&person.fields.sort_key),
                    account_users::person_create_time.eq(person.create_time),
                    fields,
                ))
                .returning(Self::as_returning())
                .get_result::<Self>(&mut tx.conn())
                .await?
        };
        record(tx, account.reference(), current.as_ref(), Some(&now))
    }

    /// Records in the trail that these settings were deleted.
    pub async fn record_ends(tx: &WriteTx, mut ended: Vec<Self>) -> Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        ended.sort_by(|one, other| {
            (&one.account_id, &one.person_id).cmp(&(&other.account_id, &other.person_id))
        });
        let account_ids: BTreeSet<_> = ended.iter().map(|it| it.account_id.as_str()).collect();
        let accounts = Account::references(tx, account_ids).await?;
        ended.iter().try_for_each(|it| record(tx, accounts.get(&it.account_id)?, Some(it), None))
    }

    /// Deletes the settings of all people on an account. The caller must hold the account FOR
    /// UPDATE, so that nobody adds any meanwhile.
    pub async fn remove_all_of_account(tx: &WriteTx, account_id: &str) -> Result<()> {
        let all = diesel::delete(
            account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::account_id.eq(account_id)),
        );
        Self::record_ends(
            tx,
            all.returning(Self::as_returning()).get_results(&mut tx.conn()).await?,
        )
        .await
    }

    /// Deletes the settings of a person on all accounts. The caller must hold the person FOR
    /// UPDATE, so that nobody adds any meanwhile.
    pub async fn remove_all_of_person(tx: &WriteTx, person_id: &str) -> Result<()> {
        let all = diesel::delete(
            account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::person_id.eq(person_id)),
        );
        Self::record_ends(
            tx,
            all.returning(Self::as_returning()).get_results(&mut tx.conn()).await?,
        )
        .await
    }

    /// Ends an individual membership. A person who is also a user through an organization keeps
    /// roles and billing flag. The caller must hold the account.
    pub async fn remove(tx: &WriteTx, account: &Account, user: &User) -> Result<()> {
        let (account_id, person_id) = (&user.account_id, &user.person.person_id);
        let Some(current) = user.record.clone() else { return Ok(()) };
        if !user.organization_ids.is_empty() {
            let fields = Fields {
                individual: false,
                start_date: None,
                end_date: None,
                ..current.fields.clone()
            };
            return Self::put(tx, account, &user.person, Some(current), &fields).await;
        }
        diesel::delete(account_users::table.filter(tx.owns(account_users::tenant_id)))
            .filter(
                account_users::account_id
                    .eq(account_id)
                    .and(account_users::person_id.eq(person_id)),
            )
            .execute(&mut tx.conn())
            .await?;
        record(tx, account.reference(), Some(&current), None)
    }
}

fn record(
    tx: &WriteTx,
    account: AccountRef<'_>,
    before: Option<&UserSettings>,
    after: Option<&UserSettings>,
) -> Result<()> {
    let of_account = |row| OfAccount { account, row };
    tx.changed(before.map(of_account).as_ref(), after.map(of_account).as_ref())
}

/// A row of an account, as the trail records it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct OfAccount<'a, T> {
    /// The account.
    #[serde(skip)]
    pub account: AccountRef<'a>,
    /// The row.
    pub row: &'a T,
}

impl Recorded for OfAccount<'_, UserSettings> {
    const NOUN: &'static str = "account_user";

    fn id(&self) -> Cow<'_, str> {
        id::pair(self.account.account_id, &self.row.person_id).into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account)
    }
}

//! The values inside an account: status, contact and addresses, and how the database stores them.

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    serialize::{self, Output, ToSql},
    sql_types::Jsonb,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::refusals;
use crate::{enums::text_enum, error::Result};

text_enum! {
    /// The status of an account.
    pub enum Status {
        /// The account is in use.
        Active = "ACTIVE",
        /// The account is suspended for a while.
        Suspended = "SUSPENDED",
        /// The account is no longer used.
        Inactive = "INACTIVE",
    }
}

impl Status {
    /// Fails if `next` cannot follow this status: an INACTIVE account can only become ACTIVE.
    pub fn require_next(self, next: Self, account_id: &str) -> Result<()> {
        if matches!((self, next), (Self::Inactive, Self::Suspended)) {
            return Err(refusals::account_status_transition(account_id, self, next));
        }
        Ok(())
    }
}

/// A contact given inline.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contact {
    /// Name of the person.
    pub name: String,
    /// Email address.
    pub email: String,
    /// Phone number as people write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phone: String,
}

/// A postal address; every field may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// First line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub line1: String,
    /// Second line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub line2: String,
    /// City.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub city: String,
    /// State, province or canton.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Postal code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub postal_code: String,
    /// ISO 3166-1 alpha-2.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub country: String,
}

impl Contact {
    /// The bytes of its texts.
    pub const fn weight(&self) -> usize {
        self.name.len() + self.email.len() + self.phone.len()
    }
}

impl Address {
    /// The bytes of its texts.
    pub const fn weight(&self) -> usize {
        let Self { line1, line2, city, state, postal_code, country } = self;
        line1.len() + line2.len() + city.len() + state.len() + postal_code.len() + country.len()
    }
}

/// A value that is stored as jsonb.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, FromSqlRow, AsExpression)]
#[serde(transparent)]
#[diesel(sql_type = Jsonb)]
pub struct Json<T>(pub T);

impl<T: Serialize + std::fmt::Debug> ToSql<Jsonb, Pg> for Json<T> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let value = serde_json::to_value(&self.0)?;
        <serde_json::Value as ToSql<Jsonb, Pg>>::to_sql(&value, &mut out.reborrow())
    }
}

impl<T: DeserializeOwned> FromSql<Jsonb, Pg> for Json<T> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let value = <serde_json::Value as FromSql<Jsonb, Pg>>::from_sql(value)?;
        Ok(Self(serde_json::from_value(value)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_transitions() {
        const ALL: [Status; 3] = [Status::Active, Status::Suspended, Status::Inactive];
        for from in ALL {
            for to in ALL {
                let allowed = from.require_next(to, "a").is_ok();
                assert_eq!(
                    allowed,
                    (from, to) != (Status::Inactive, Status::Suspended),
                    "{from:?} to {to:?}"
                );
            }
        }
    }
}

//! Enums that are texts in the database and the trail, and numbers in the contract.

/// Declares an enum that is stored as text.
macro_rules! text_enum {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(
            Debug,
            Clone,
            Copy,
            PartialEq,
            Eq,
            serde::Serialize,
            diesel::deserialize::FromSqlRow,
            diesel::expression::AsExpression,
        )]
        #[diesel(sql_type = diesel::sql_types::Text)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value,)+
        }

        impl $name {
            /// The name in the contract without the prefix, which is also the text in the database.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }

        impl diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                use diesel::{pg::Pg, serialize::ToSql, sql_types::Text};
                <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
            }
        }

        impl diesel::deserialize::FromSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn from_sql(value: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match std::str::from_utf8(value.as_bytes())? {
                    $($text => Ok(Self::$value),)+
                    other => Err(format!("{} has no value {other:?}", stringify!($name)).into()),
                }
            }
        }
    };
}
pub(crate) use text_enum;

/// Converts an enum from and to an enum of the contract that has the same values and UNSPECIFIED.
macro_rules! contract_enum {
    ($name:ident = $contract:ident { $($value:ident),+ }) => {
        impl $name {
            /// Parses the value of a field; `None` if it is unspecified or a violation.
            fn parse(
                v: &mut $crate::validate::Violations,
                field: impl std::fmt::Display,
                value: i32,
            ) -> Option<Self> {
                match v.known(field, value)? {
                    $contract::Unspecified => None,
                    $($contract::$value => Some(Self::$value),)+
                }
            }
        }

        impl From<$name> for i32 {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$value => $contract::$value as Self,)+
                }
            }
        }
    };
}
pub(crate) use contract_enum;

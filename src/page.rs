//! Pages of lists (AIP-158): a bounded size and a token that continues behind the last row seen.
//!
//! Lists are read by keyset: a page starts behind a (key, id) pair of an index, so that the ten-thousandth page costs what
//! the first does, and rows that come or go do not shift the others. A page has at most as many rows as were asked for, and ends
//! earlier where they would take more bytes than an answer may (`crate::budget`).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use diesel::QueryResult;
use futures_util::Stream;
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::{
    budget::{self, Weighed},
    caller::Caller,
    db::Tx,
    error::{Error, Result},
    validate::Violations,
};

const DEFAULT_SIZE: i32 = 50;
const MAX_SIZE: i32 = 1000;
/// Bytes of the hash in a token that bind it to tenant, call and filters, and show whether it is damaged.
const CHECK: usize = 12;

/// A list request; implemented by build.rs for every message with `page_size` and `page_token`.
pub trait Paged: Message {
    /// Takes `page_size` and `page_token` out; what stays is what a token is bound to.
    fn take_page(&mut self) -> (i32, String);
    /// The number of the order asked for.
    fn order_by(&self) -> i32;
}

/// A row of a list.
pub trait Listed: Weighed {
    /// Name, creation and id: what lists are ordered by.
    fn key(&self) -> (&str, DateTime<Utc>, &str);
}

/// The order of a list; the `order_by` enums of all lists have the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By name without case (and, where the slice says so, accents).
    Name,
    /// The same, backwards.
    NameDesc,
    /// Oldest first.
    Created,
    /// Newest first.
    CreatedDesc,
}

impl Order {
    /// The order that a list request asks for; by name if it asks for none.
    pub fn parse(violations: &mut Violations, order_by: i32) -> Self {
        match order_by {
            0 | 1 => Self::Name,
            2 => Self::NameDesc,
            3 => Self::Created,
            4 => Self::CreatedDesc,
            unknown => {
                violations.add("order_by", format!("has no value {unknown}"));
                Self::Name
            }
        }
    }

    /// The order of a list of what has happened, which has no names; the newest first if the request asks for none.
    pub fn parse_by_time(violations: &mut Violations, order_by: i32) -> Self {
        match order_by {
            0 | 1 => Self::CreatedDesc,
            2 => Self::Created,
            unknown => {
                violations.add("order_by", format!("has no value {unknown}"));
                Self::CreatedDesc
            }
        }
    }

    const fn by_name(self) -> bool {
        matches!(self, Self::Name | Self::NameDesc)
    }
}

/// Orders a boxed query by name or creation and starts it behind the page's last row: `(key, id) > (…, …)`, which is a
/// range of the index over tenant, key and id.
macro_rules! keyset {
    ($query:expr, $page:expr, $table:ident ($name:ident, $id:ident)) => {
        $crate::page::keyset!($query, $page, $table($name, create_time, $id))
    };
    ($query:expr, $page:expr, $table:ident ($name:ident, $created:ident, $id:ident)) => {
        $crate::page::keyset!($query, $page, by $table::$name, $table::$created, $table::$id)
    };
    ($query:expr, $page:expr, by $name:expr, $created:expr, $id:expr) => {{
        use diesel::{
            IntoSql as _,
            sql_types::{Record, Text, Timestamptz},
        };
        use $crate::page::Order;
        let (query, page) = ($query, $page);
        let name = || ($name, $id).into_sql::<Record<(Text, Text)>>();
        let created = || ($created, $id).into_sql::<Record<(Timestamptz, Text)>>();
        let query = match (page.order(), page.after_name()) {
            (Order::Name, Some(after)) => query.filter(name().gt(after)),
            (Order::NameDesc, Some(after)) => query.filter(name().lt(after)),
            _ => query,
        };
        let query = match (page.order(), page.after_time()?) {
            (Order::Created, Some(after)) => query.filter(created().gt(after)),
            (Order::CreatedDesc, Some(after)) => query.filter(created().lt(after)),
            _ => query,
        };
        let query = query.limit(page.limit());
        match page.order() {
            Order::Name => query.order(($name, $id)),
            Order::NameDesc => query.order(($name.desc(), $id.desc())),
            Order::Created => query.order(($created, $id)),
            Order::CreatedDesc => query.order(($created.desc(), $id.desc())),
        }
    }};
}
pub(crate) use keyset;

/// The page asked for.
#[derive(Debug)]
pub struct Page {
    size: i64,
    order: Order,
    after: Option<(String, String)>,
    binding: Binding,
}

impl Page {
    /// Takes the page out of a list request. A token that was made for another tenant, call, filter or order is refused.
    pub fn take<R: Paged>(violations: &mut Violations, caller: &Caller, request: &mut R) -> Result<Self> {
        Self::take_ordered(violations, caller, request, Order::parse)
    }

    /// The same for a list whose orders have another meaning.
    pub fn take_ordered<R: Paged>(
        violations: &mut Violations,
        caller: &Caller,
        request: &mut R,
        order: fn(&mut Violations, i32) -> Order,
    ) -> Result<Self> {
        let (size, token) = request.take_page();
        if size < 0 {
            violations.add("page_size", "must not be negative");
        }
        let size = if size == 0 { DEFAULT_SIZE } else { size.min(MAX_SIZE) };
        let order = order(violations, request.order_by());
        let binding = Binding::of(caller, request);
        let after = if token.is_empty() { None } else { Some(binding.open(&token).ok_or(Error::PageToken)?) };
        Ok(Self { size: size.into(), order, after, binding })
    }

    /// The order of the list.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// How many rows to read: one more than the page holds, which tells whether there is a next page.
    pub const fn limit(&self) -> i64 {
        self.size + 1
    }

    /// The name and id behind which a list ordered by name starts.
    pub fn after_name(&self) -> Option<(String, String)> {
        self.after.clone().filter(|_| self.order.by_name())
    }

    /// The time and id behind which a list ordered by creation starts.
    pub fn after_time(&self) -> Result<Option<(DateTime<Utc>, String)>> {
        let Some((key, id)) = self.after.as_ref().filter(|_| !self.order.by_name()) else { return Ok(None) };
        let time = key.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(Error::PageToken)?;
        Ok(Some((time, id.clone())))
    }

    /// Sorts rows as the list is ordered.
    pub fn sort<T: Listed>(&self, rows: &mut [T]) {
        rows.sort_by(|a, b| {
            let ((name_a, created_a, id_a), (name_b, created_b, id_b)) = (a.key(), b.key());
            match self.order {
                Order::Name => (name_a, id_a).cmp(&(name_b, id_b)),
                Order::NameDesc => (name_b, id_b).cmp(&(name_a, id_a)),
                Order::Created => (created_a, id_a).cmp(&(created_b, id_b)),
                Order::CreatedDesc => (created_b, id_b).cmp(&(created_a, id_a)),
            }
        });
    }

    /// Reads the page from the rows of a query with `limit`, and makes the token of the next one: empty on the last page.
    pub async fn read<T: Listed>(&self, tx: &Tx, rows: impl Stream<Item = QueryResult<T>>) -> Result<(Vec<T>, String)> {
        let (rows, complete) = budget::read(tx, rows).await?;
        Ok(self.cut(rows, complete))
    }

    /// Cuts rows that begin the list down to the page, and makes the token of the next one. It is empty if these rows are all
    /// that were asked for (`complete`) and fit into the page.
    pub fn cut<T: Listed>(&self, mut rows: Vec<T>, complete: bool) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if complete && rows.len() <= size {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map_or_else(String::new, |row| {
            let (name, created, id) = row.key();
            // To the microsecond that PostgreSQL keeps.
            let created = created.timestamp_micros().to_string();
            self.binding.seal(if self.order.by_name() { name } else { &created }, id)
        });
        (rows, token)
    }
}

/// What tokens are bound to: a position that was sealed for one tenant, call and filter opens for no other.
#[derive(Debug, Clone)]
pub struct Binding(Sha256);

impl Binding {
    /// Binds to the caller's tenant, the call and these filters.
    pub fn of(caller: &Caller, filters: &impl Message) -> Self {
        let mut hash = Sha256::new();
        for part in [caller.tenant.as_str(), caller.method] {
            hash.update(part);
            hash.update([0]);
        }
        let filters = filters.encode_to_vec();
        hash.update(filters.len().to_be_bytes());
        hash.update(filters);
        Self(hash)
    }

    /// The position, `key` and `id` with a NUL between them, behind a hash over it and what it is bound to.
    pub fn seal(&self, key: &str, id: &str) -> String {
        let position = [key.as_bytes(), &[0], id.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode([&self.check(&position), &*position].concat())
    }

    /// The position in a token, if it is whole and bound to the same.
    pub fn open(&self, token: &str) -> Option<(String, String)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (sent, position) = bytes.split_first_chunk()?;
        if *sent != self.check(position) {
            return None;
        }
        // Neither a name nor an id contains a NUL, which PostgreSQL would not take either.
        let (key, id) = std::str::from_utf8(position).ok()?.split_once('\0').filter(|(_, id)| !id.contains('\0'))?;
        Some((key.to_owned(), id.to_owned()))
    }

    fn check(&self, position: &[u8]) -> [u8; CHECK] {
        let hash = self.0.clone().chain_update(position).finalize();
        std::array::from_fn(|i| hash[i])
    }
}

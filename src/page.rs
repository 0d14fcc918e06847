//! Pages of lists (AIP-158): a bounded size, and a token that continues after the last row.
//!
//! Lists are read by keyset: a page starts after a (key, id) pair of an index. Thus the
//! ten-thousandth page costs as much as the first, and rows that are inserted or deleted do not
//! shift the others. A page has at most as many rows as the request asks for, and fewer if these
//! would exceed the bytes of a response (`crate::budget`).
//!
//! A request can also ask how many rows the whole list has. The count stops at [`MAX_TOTAL`], so
//! that it reads no more rows than a large page does.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::BigInt,
};
use diesel_async::RunQueryDsl as _;
use futures_util::Stream;
use prost::Message;

use crate::{
    budget::{self, Weighed},
    caller::Caller,
    db::Tx,
    error::{Error, Refusal, Result},
    proto::ErrorReason,
    validate::{Period, Violations},
};

const DEFAULT_SIZE: i32 = 50;
const MAX_SIZE: i32 = 1000;
/// Most rows of a list that are counted.
pub const MAX_TOTAL: i32 = 1000;
/// Separates status and name in the position of a list ordered by both. Neither contains it.
const BETWEEN: char = '\u{1}';
/// Bytes of a token's hash. The hash binds the token to tenant, call and filters, and shows whether
/// the token is damaged.
const CHECK: usize = 12;

/// A list request. `build.rs` implements this for every message with `page_size` and `page_token`.
pub trait Paged: Message {
    /// Takes `page_size` and `page_token` out. A token is bound to the fields that remain.
    fn take_page(&mut self) -> (i32, String);
    /// Takes `include_total_size` out, so that tokens are not bound to it.
    fn take_total(&mut self) -> bool;
    /// The requested order, or the order of the enum's first value if the request has none. Fails
    /// with the number in the request if the enum has no such value.
    fn order(&self) -> Result<Order, i32>;
}

/// A row of a list.
pub trait Listed: Weighed {
    /// Name, creation time and id, by which lists are ordered.
    fn key(&self) -> (&str, DateTime<Utc>, &str);

    /// The value that orders the row, as a page token contains it.
    fn value(&self, by: By) -> String {
        let (name, created, _) = self.key();
        match by {
            By::DisplayName | By::Title => name.to_owned(),
            _ => micros(created),
        }
    }
}

/// A time as a page token contains it: in microseconds, the precision that PostgreSQL stores.
pub fn micros(time: DateTime<Utc>) -> String {
    time.timestamp_micros().to_string()
}

/// A status and a name as a page token contains them.
pub fn status_and_name(status: &str, name: &str) -> String {
    format!("{status}{BETWEEN}{name}")
}

/// What a list is ordered by. Rows with equal values are ordered by id. Each variant is named after
/// values of the contract's `order_by` enums: `CREATE_TIME` and `CREATE_TIME_DESC` are
/// `CreateTime`. The enum of a list says which of these orders it has; its value 1 is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The name without case (and, in some slices, without accents).
    DisplayName,
    /// The time of creation.
    CreateTime,
    /// The time of the last change.
    UpdateTime,
    /// The status, then the name.
    Status,
    /// The title without case and accents.
    Title,
    /// The last day of the term.
    TermEndDate,
    /// The last day for a notice.
    NoticeDeadlineDate,
    /// The time of an order.
    OrderTime,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What the list is ordered by.
    pub by: By,
    /// Whether the order is descending.
    pub descending: bool,
}

/// Starts a boxed query after a position, `(key, id) > (…, …)`, and orders it by these columns.
/// This is a range of the index over tenant, key and id.
macro_rules! behind {
    ($query:expr, $page:expr, $after:expr, ($($column:expr),+): $types:ty) => {{
        use diesel::{IntoSql as _, sql_types::Record};
        let (query, page) = ($query, $page);
        let key = || ($($column),+).into_sql::<Record<$types>>();
        let query = match ($after, page.order().descending) {
            (Some(after), false) => query.filter(key().gt(after)),
            (Some(after), true) => query.filter(key().lt(after)),
            (None, _) => query,
        };
        let query = query.limit(page.limit());
        if page.order().descending {
            query.order(($($column.desc()),+))
        } else {
            query.order(($($column),+))
        }
    }};
}
pub(crate) use behind;

/// Orders a boxed query as the page asks, and starts it after the last row of the page before.
macro_rules! keyset {
    ($query:expr, $page:expr, $table:ident ($name:ident, $id:ident)) => {
        $crate::page::keyset!($query, $page, $table($name, create_time, $id))
    };
    ($query:expr, $page:expr, $table:ident ($name:ident, $created:ident, $id:ident)) => {
        $crate::page::keyset!($query, $page, by $table::$name, $table::$created, $table::$id)
    };
    ($query:expr, $page:expr, by $name:expr, $created:expr, $id:expr) => {{
        use diesel::sql_types::{Text, Timestamptz};
        use $crate::page::{By, behind};
        match $page.order().by {
            By::DisplayName | By::Title => {
                behind!($query, $page, $page.after_name(), ($name, $id): (Text, Text))
            }
            _ => behind!($query, $page, $page.after_time()?, ($created, $id): (Timestamptz, Text)),
        }
    }};
    ($query:expr, $page:expr, accounts) => {{
        use diesel::sql_types::{Text, Timestamptz};
        use $crate::page::{By, behind, keyset};
        match $page.order().by {
            By::UpdateTime => {
                let updated = $page.after_time()?;
                behind!($query, $page, updated,
                    (accounts::update_time, accounts::account_id): (Timestamptz, Text))
            }
            By::Status => {
                let status = $page.after_status()?;
                behind!($query, $page, status,
                    (accounts::status, accounts::sort_key, accounts::account_id):
                    (Text, Text, Text))
            }
            _ => keyset!($query, $page, accounts(sort_key, account_id)),
        }
    }};
}
pub(crate) use keyset;

/// Counts the rows of a boxed query without its page, if the request asks for the count.
macro_rules! total {
    ($tx:expr, $page:expr, $query:expr) => {{
        use diesel::{IntoSql as _, sql_types::Integer};
        if $page.counts() {
            let rows = $query.select(1.into_sql::<Integer>()).limit($crate::page::COUNTED);
            $crate::page::Total::count($tx, rows).await?
        } else {
            $crate::page::Total::default()
        }
    }};
}
pub(crate) use total;

/// Most rows that a count reads: one more than [`MAX_TOTAL`], which shows whether the list has
/// more.
pub const COUNTED: i64 = MAX_TOTAL as i64 + 1;

/// How many rows a list has; zero if the request does not ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Total {
    /// The number of rows, at most [`MAX_TOTAL`].
    pub size: i32,
    /// Whether the list has more rows.
    pub capped: bool,
}

impl Total {
    /// Counts the rows of a query that reads at most [`COUNTED`] rows.
    pub async fn count(tx: &Tx, rows: impl QueryFragment<Pg> + Send) -> Result<Self> {
        Ok(Self::of(Counted(rows).get_result(&mut tx.conn()).await?))
    }

    /// Adds `more` rows.
    #[must_use]
    pub fn plus(self, more: usize) -> Self {
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        if self.capped { self } else { Self::of(i64::from(self.size).saturating_add(more)) }
    }

    /// The total of a count that reads at most [`COUNTED`] rows.
    fn of(count: i64) -> Self {
        let size = i32::try_from(count).unwrap_or(i32::MAX);
        Self { size: size.min(MAX_TOTAL), capped: size > MAX_TOTAL }
    }
}

/// `SELECT count(*)` over the rows of a query.
struct Counted<Q>(Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Counted<Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT count(*) FROM (");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(") AS counted");
        Ok(())
    }
}

impl<Q> Query for Counted<Q> {
    type SqlType = BigInt;
}

/// The statement cache uses the text of the statement, which varies with the filters.
impl<Q> QueryId for Counted<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// Makes the response of a list: the rows in the named field, and the fields that every list has.
macro_rules! response {
    ($response:ident { $rows:ident $(, $field:ident: $value:expr)* }, $listing:expr) => {{
        let $crate::page::Listing { rows, next_page_token, total } = $listing;
        $response {
            $rows: rows.into_iter().map(Into::into).collect(),
            next_page_token,
            total_size: total.size,
            total_size_capped: total.capped,
            $($field: $value,)*
        }
    }};
}
pub(crate) use response;

/// A page of a list.
#[derive(Debug)]
pub struct Listing<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The token of the next page; empty on the last page.
    pub next_page_token: String,
    /// How many rows the whole list has.
    pub total: Total,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), next_page_token: String::new(), total: Total::default() }
    }
}

impl<T> Listing<T> {
    /// Converts the rows.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Listing<U> {
        let Self { rows, next_page_token, total } = self;
        Listing { rows: rows.into_iter().map(make).collect(), next_page_token, total }
    }
}

/// The page token does not belong to this list with these filters in this tenant.
fn invalid_page_token() -> Error {
    let message = "page_token does not belong to this list and these filters";
    Refusal::new(ErrorReason::InvalidPageToken, message).field("page_token").into()
}

/// The requested page.
#[derive(Debug)]
pub struct Page {
    size: i64,
    order: Order,
    after: Option<(String, String)>,
    counts: bool,
    binding: Binding,
}

impl Page {
    /// Takes the page out of a list request. Rejects a token that belongs to another tenant, call,
    /// filter or order.
    pub fn take<R: Paged>(
        violations: &mut Violations,
        caller: &Caller,
        request: &mut R,
    ) -> Result<Self> {
        let (size, token) = request.take_page();
        if size < 0 {
            violations.add("page_size", "must not be negative");
        }
        let size = if size == 0 { DEFAULT_SIZE } else { size.min(MAX_SIZE) };
        let order = request.order().unwrap_or_else(|number| {
            violations.add("order_by", format!("has no value {number}"));
            Order { by: By::DisplayName, descending: false }
        });
        let counts = request.take_total();
        let binding = Binding::of(caller, request);
        let after = if token.is_empty() {
            None
        } else {
            Some(binding.open(&token).ok_or_else(invalid_page_token)?)
        };
        Ok(Self { size: size.into(), order, after, counts, binding })
    }

    /// The order of the list.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// How many rows to read: one more than the page holds, to find out whether there is a next
    /// page.
    pub const fn limit(&self) -> i64 {
        self.size + 1
    }

    /// Whether the request asks for the number of rows.
    pub const fn counts(&self) -> bool {
        self.counts
    }

    /// The name and id after which a page of a list ordered by name starts.
    pub fn after_name(&self) -> Option<(String, String)> {
        self.after.clone()
    }

    /// The time and id after which a page of a list ordered by a time starts.
    pub fn after_time(&self) -> Result<Option<(DateTime<Utc>, String)>> {
        let Some((key, id)) = &self.after else { return Ok(None) };
        let time = key
            .parse()
            .ok()
            .and_then(DateTime::from_timestamp_micros)
            .ok_or_else(invalid_page_token)?;
        Ok(Some((time, id.clone())))
    }

    /// The status, name and id after which a page of a list ordered by status starts.
    pub fn after_status(&self) -> Result<Option<(String, String, String)>> {
        let Some((key, id)) = &self.after else { return Ok(None) };
        let (status, name) = key.split_once(BETWEEN).ok_or_else(invalid_page_token)?;
        Ok(Some((status.to_owned(), name.to_owned(), id.clone())))
    }

    /// The part of the period that this page can contain. If the list is ordered by the same time,
    /// the position of the page replaces the bound on that side: given both, PostgreSQL 18 starts
    /// at the bound and reads every row up to the position.
    pub fn rest_of(&self, period: Period, by: By) -> Period {
        let Period { start, end } = period;
        match self.after {
            Some(_) if self.order.by == by && self.order.descending => Period { start, end: None },
            Some(_) if self.order.by == by => Period { start: None, end },
            _ => period,
        }
    }

    /// Sorts rows by name or creation time, as the list is ordered.
    pub fn sort<T: Listed>(&self, rows: &mut [T]) {
        rows.sort_by(|a, b| {
            let ((name_a, created_a, id_a), (name_b, created_b, id_b)) = (a.key(), b.key());
            let ascending = match self.order.by {
                By::DisplayName | By::Title => (name_a, id_a).cmp(&(name_b, id_b)),
                _ => (created_a, id_a).cmp(&(created_b, id_b)),
            };
            if self.order.descending { ascending.reverse() } else { ascending }
        });
    }

    /// Reads the page from the rows of a query with `limit`, and makes the token of the next page.
    pub async fn read<T: Listed>(
        &self,
        tx: &Tx,
        total: Total,
        rows: impl Stream<Item = QueryResult<T>>,
    ) -> Result<Listing<T>> {
        let (rows, complete) = budget::read(tx, rows).await?;
        let (rows, next_page_token) = self.cut(rows, complete);
        Ok(Listing { rows, next_page_token, total })
    }

    /// Cuts rows from the beginning of the list to the size of the page, and makes the token of the
    /// next page. The token is empty if the rows are all that were requested (`complete`) and fit
    /// into the page.
    pub fn cut<T: Listed>(&self, mut rows: Vec<T>, complete: bool) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if complete && rows.len() <= size {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map_or_else(String::new, |row| {
            let (.., id) = row.key();
            self.binding.seal(&row.value(self.order.by), id)
        });
        (rows, token)
    }
}

/// What a token is bound to: tenant, call and filters. A token that was sealed for others does not
/// open.
#[derive(Clone)]
pub struct Binding(digest::Context);

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").finish_non_exhaustive()
    }
}

impl Binding {
    /// The binding to the caller's tenant, the call and these filters.
    pub fn of(caller: &Caller, filters: &impl Message) -> Self {
        let mut hash = digest::Context::new(&SHA256);
        for part in [caller.tenant.as_str(), caller.method] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        let filters = filters.encode_to_vec();
        hash.update(&filters.len().to_be_bytes());
        hash.update(&filters);
        Self(hash)
    }

    /// Makes a token: a hash over the binding and the position, then the position, which is `key`
    /// and `id` with a NUL between them.
    pub fn seal(&self, key: &str, id: &str) -> String {
        let position = [key.as_bytes(), &[0], id.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode([&self.check(&position), &*position].concat())
    }

    /// Returns the position in a token, if the token is undamaged and has this binding.
    pub fn open(&self, token: &str) -> Option<(String, String)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (sent, position) = bytes.split_first_chunk()?;
        if *sent != self.check(position) {
            return None;
        }
        // Neither a name nor an id contains a NUL, which PostgreSQL rejects.
        let (key, id) = std::str::from_utf8(position)
            .ok()?
            .split_once('\0')
            .filter(|(_, id)| !id.contains('\0'))?;
        Some((key.to_owned(), id.to_owned()))
    }

    fn check(&self, position: &[u8]) -> [u8; CHECK] {
        let mut hash = self.0.clone();
        hash.update(position);
        let hash = hash.finish();
        std::array::from_fn(|i| hash.as_ref()[i])
    }
}

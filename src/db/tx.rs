//! The tenant transaction: the only way to a connection inside a slice.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    Expression, ExpressionMethods, IntoSql as _,
    dsl::Eq,
    sql_types::{Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use tokio::{sync::OnceCell, time::Instant};
use tokio_postgres::error::SqlState;

use super::{
    WRITE,
    pool::{Conn, ConnectError, Lease},
    reach::Sight,
    replay::Meta,
    sqlstate,
    tenant::Tenant,
    trail::{Change, Recorded, Trail},
};
use crate::{
    caller::{Caller, TenantId},
    error::{Error, Result},
    resource::Kind,
    telemetry::metrics::RACES_LOST,
};

/// What the first flight of a transaction finds out.
pub(super) struct Beginning {
    /// The tenant row, or the defaults if there is none.
    pub tenant: Tenant,
    /// When the transaction began: by the database's clock, or by that of the service for a tenant
    /// without a row, which needs no query more.
    pub time: DateTime<Utc>,
    /// Whether `time` is by the database's clock.
    pub exact: bool,
}

/// A transaction of one tenant, for reading.
pub struct Tx {
    lease: Lease,
    tenant_id: TenantId,
    /// What the caller's reach lets it see.
    sight: Sight,
    /// The module of the call.
    module: &'static str,
    /// The tenant, and when the transaction began.
    beginning: OnceCell<Beginning>,
    /// The time at which a test has stopped the tenant's clock.
    clock: Option<DateTime<Utc>>,
    /// Whether `module_off_somewhere` was asked before the tenant row was here.
    guessed: AtomicBool,
    /// Whether a statement was sent whose answer will not be read to its end.
    unread: AtomicBool,
    /// How many statements have been sent at their first poll.
    sent: AtomicUsize,
}

impl Tx {
    pub(super) fn new(lease: Lease, caller: &Caller, clock: Option<DateTime<Utc>>) -> Self {
        Self {
            lease,
            tenant_id: caller.tenant.clone(),
            sight: Sight::of(caller),
            module: caller.module,
            beginning: OnceCell::const_new(),
            clock,
            guessed: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
        }
    }

    pub(super) const fn sight(&self) -> &Sight {
        &self.sight
    }

    /// The id of the tenant.
    pub fn tenant_id(&self) -> &str {
        self.tenant_id.as_str()
    }

    /// Binds a table's `tenant_id` to the tenant of the transaction: a condition of every query,
    /// and a value of every insert. A joined table is compared with the table that it is joined to.
    pub fn owns<C>(&self, tenant_id: C) -> Eq<C, String>
    where
        C: ExpressionMethods + Expression<SqlType = Text>,
    {
        tenant_id.eq(self.tenant_id().to_owned())
    }

    /// The module that the call belongs to.
    pub const fn module(&self) -> &'static str {
        self.module
    }

    /// The tenant row, or the defaults if there is none. The gate asks for it in the first flight,
    /// so this does not wait once the database has answered anything.
    pub async fn tenant(&self) -> Result<&Tenant> {
        Ok(&self.beginning().await?.tenant)
    }

    async fn beginning(&self) -> Result<&Beginning> {
        self.beginning.get_or_try_init(|| Tenant::find(self)).await
    }

    /// The day on which the transaction began, in the tenant's time zone: one day for all that the
    /// transaction asks. Does not wait once the tenant row has been read.
    pub async fn today(&self) -> Result<NaiveDate> {
        let Beginning { tenant, time, .. } = self.beginning().await?;
        tenant.day_at(self.clock.unwrap_or(*time))
    }

    /// The time at which the transaction began, by the database's clock. Does not wait once the
    /// tenant row has been read, unless the tenant has none. Earlier it sends a statement at once.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        if let Some(stopped) = self.clock {
            return Ok(stopped);
        }
        if let Some(beginning) = self.beginning.get().filter(|beginning| beginning.exact) {
            return Ok(beginning.time);
        }
        let now = diesel::select(diesel::dsl::now.into_sql::<Timestamptz>());
        Ok(diesel_async::RunQueryDsl::get_result(now, &mut self.conn()).await?)
    }

    /// Whether the module of the call is off for some organization. Never waits: until the tenant
    /// row has been read it optimistically returns false, and `Db::read` runs the work again if
    /// that was wrong.
    pub fn module_off_somewhere(&self) -> bool {
        if let Some(Beginning { tenant, .. }) = self.beginning.get() {
            return tenant.is_off_below(self.module);
        }
        self.guessed.store(true, Ordering::Relaxed);
        false
    }

    /// Whether `module_off_somewhere` has returned false where it should have returned true.
    pub(super) fn assumed_on_wrongly(&self) -> bool {
        self.guessed.load(Ordering::Relaxed)
            && self.beginning.get().is_some_and(|it| it.tenant.is_off_below(self.module))
    }

    /// Fails if the module of the call is off for the tenant.
    pub(super) async fn gate(&self) -> Result<()> {
        self.tenant().await?.require_module(self.module)
    }

    /// The connection, for Diesel: `query.load(&mut tx.conn())`. Several queries may be sent at
    /// once through it.
    #[expect(
        clippy::expect_used,
        reason = "a lease holds its connection until it is dropped, and this borrows it"
    )]
    pub fn conn(&self) -> &AsyncPgConnection {
        self.lease.conn().expect("connection of a live lease").pg()
    }

    /// Whether the tenant row has been read.
    pub(super) fn has_begun(&self) -> bool {
        self.beginning.initialized()
    }

    /// How many statements [`Tx::sending`] has seen go.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// How many statements the connection has prepared, or begun to prepare.
    pub(super) fn prepared(&self) -> usize {
        self.lease.conn().map_or(0, Conn::prepared)
    }

    /// Opens the transaction with one message. Queries may be sent behind it in the same flight, if
    /// this future is polled first: if it fails, they fail too, or see no tenant and so no row.
    pub(super) async fn begin(&self, mode: &str, caller: &Caller) -> Result<()> {
        let left =
            caller.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let opening = self.lease.conn().map(Conn::opening);
        let opening = opening
            .map_or("", |opening| if mode == WRITE { &opening.write } else { &opening.read });
        let left = left.as_millis();
        // A tenant id has no character that could end the literal (TenantId).
        let sql = format!(
            "BEGIN {mode};{opening};SET LOCAL app.tenant_id='{}';SET LOCAL statement_timeout={left}",
            caller.tenant
        );
        Ok((&mut self.conn()).batch_execute(&sql).await?)
    }

    /// Closes the connection, instead of returning it to the pool, if the error says that it cannot
    /// be used again.
    pub(super) fn close_after(&mut self, error: &Error) {
        match error {
            Error::DatabaseUnavailable | Error::OutcomeUnknown { .. } => self.lease.close(),
            Error::DatabaseReadOnly => {
                if let Some(conn) = self.lease.conn() {
                    conn.retire_all();
                }
                self.lease.close();
            }
            _ => {}
        }
    }

    /// Notes that nobody reads the rest of an answer. A statement that goes on for long is then
    /// cancelled.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Notes that every statement sent so far has been answered, unless an answer was left unread.
    pub(super) fn settled(&mut self) {
        if !self.unread.load(Ordering::Relaxed) {
            self.lease.settled();
        }
    }
}

/// A transaction of one tenant that changes something, and its activities so far.
pub struct WriteTx {
    tx: Tx,
    trail: Mutex<Vec<Change>>,
}

impl WriteTx {
    pub(super) const fn new(tx: Tx) -> Self {
        Self { tx, trail: Mutex::new(Vec::new()) }
    }

    /// Makes PostgreSQL plan the statements of this connection anew, including those of foreign
    /// keys. PostgreSQL keeps a plan until the statistics of its tables change. A plan from when a
    /// table was small reads the whole tenant for each row that is inserted into a large one. This
    /// costs some milliseconds, so it is for transactions that write hundreds of rows.
    pub async fn discard_plans(&self) -> Result<()> {
        Ok((&mut self.conn()).batch_execute("DISCARD PLANS").await?)
    }

    /// Records in the activity trail that a resource was created.
    pub fn created<R: Recorded>(&self, row: &R) -> Result<()> {
        self.changed(None, Some(row))
    }

    /// Records in the activity trail which fields of a resource have changed, if any has.
    pub fn updated<R: Recorded>(&self, before: &R, after: &R) -> Result<()> {
        self.changed(Some(before), Some(after))
    }

    /// Records in the activity trail that a resource was deleted.
    pub fn deleted<R: Recorded>(&self, row: &R) -> Result<()> {
        self.changed(Some(row), None)
    }

    /// Records in the activity trail that a resource was created (`before` is `None`), deleted
    /// (`after` is `None`) or changed. The trail is written before the transaction commits.
    pub fn changed<R: Recorded>(&self, before: Option<&R>, after: Option<&R>) -> Result<()> {
        if let Some(change) = Change::between(before, after)? {
            self.trail.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        }
        Ok(())
    }

    pub(super) fn take_trail(&self) -> Vec<Change> {
        std::mem::take(&mut *self.trail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Tx::settled`]
    pub(super) fn settled(&mut self) {
        self.tx.settled();
    }

    /// [`Tx::close_after`]
    pub(super) fn close_after(&mut self, error: &Error) {
        self.tx.close_after(error);
    }

    /// Writes the trail, keeps the answer for repeats, and commits, or rolls back if the request
    /// only wants to be validated: all in one round trip. Fails with `OutcomeUnknown` if the
    /// connection is lost once COMMIT may have been sent.
    pub(super) async fn finish(
        mut self,
        caller: &Caller,
        meta: &Meta,
        answer: Vec<u8>,
    ) -> Result<()> {
        let trail = Trail::of(&self, caller, &meta.request_id);
        let (sent, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let end = async {
            sent.store(!meta.validate_only, Ordering::Relaxed);
            let how = if meta.validate_only { "ROLLBACK" } else { "COMMIT" };
            (&mut self.conn()).batch_execute(how).await?;
            // A COMMIT behind a statement that failed is answered, too: it rolls back.
            ended.store(true, Ordering::Relaxed);
            Ok(())
        };
        let finished = async {
            trail.begin(&self).await?;
            let remember = meta.remember(&self, answer);
            self.together(trail.end(&self), self.together(remember, end)).await
        };
        let finished = match finished.await {
            Err(Error::DatabaseUnavailable) if sent.load(Ordering::Relaxed) => {
                Err(Error::OutcomeUnknown { repeatable: false })
            }
            finished => finished.map(drop),
        };
        if ended.load(Ordering::Relaxed) {
            self.tx.lease.ended();
        }
        if let Err(error) = &finished {
            self.close_after(error);
        }
        finished
    }
}

impl std::ops::Deref for WriteTx {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

/// Errors of the database as errors of the service. A store translates the constraints that it
/// knows before this conversion.
impl From<diesel::result::Error> for Error {
    #[track_caller]
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};
        if let Diesel::DatabaseError(Kind::UnableToSendCommand | Kind::ClosedConnection, cause) =
            &error
        {
            tracing::warn!(cause = cause.message(), "database connection lost");
            return Self::DatabaseUnavailable;
        }
        let Some(state) = sqlstate::of(&error) else {
            return Self::internal(format!("database: {error}"));
        };
        match state {
            // IN_FAILED_SQL_TRANSACTION: a statement in the same flight has failed before this one.
            SqlState::IN_FAILED_SQL_TRANSACTION => Self::Retry,
            SqlState::T_R_SERIALIZATION_FAILURE => lost_race("serialization"),
            SqlState::T_R_DEADLOCK_DETECTED => lost_race("deadlock"),
            // Partial unique indexes of this name hold "at most one". A transaction that loses the
            // race runs again.
            SqlState::UNIQUE_VIOLATION
                if violated(&error).is_some_and(|name| name.ends_with("_at_most_one")) =>
            {
                lost_race("at_most_one")
            }
            SqlState::LOCK_NOT_AVAILABLE => Self::Locked,
            SqlState::QUERY_CANCELED => Self::DeadlineExceeded,
            SqlState::READ_ONLY_SQL_TRANSACTION => Self::DatabaseReadOnly,
            SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT => {
                tracing::error!(cause = %error, "{}", ConnectError::Pooler);
                Self::DatabaseUnavailable
            }
            state if ends_connection(&state) => {
                tracing::warn!(cause = %error, "database went away");
                Self::DatabaseUnavailable
            }
            _ => Self::internal(format!("database: {error}")),
        }
    }
}

fn lost_race(cause: &'static str) -> Error {
    RACES_LOST.count(cause);
    Error::Retry
}

/// The error for a value that must be unique and is taken, if one of these constraints was
/// violated: each with the field and the value.
pub fn taken(error: diesel::result::Error, kind: &Kind, unique: &[(&str, &str, &str)]) -> Error {
    let constraint = violated(&error).unwrap_or_default();
    match unique.iter().find(|(name, ..)| *name == constraint) {
        Some((_, _, id)) if unique.len() == 1 => kind.id_taken(id),
        Some((_, field, value)) => kind.value_taken(field, value),
        None => error.into(),
    }
}

/// The constraint that a statement violated.
fn violated(error: &diesel::result::Error) -> Option<&str> {
    if let diesel::result::Error::DatabaseError(_, info) = error {
        info.constraint_name()
    } else {
        None
    }
}

/// Whether the server, or a pooler in front of it, ends the connection with this error.
fn ends_connection(state: &SqlState) -> bool {
    const TRANSACTION_TIMEOUT: &str = "25P04"; // from PostgreSQL 17 on
    match *state {
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        | SqlState::TOO_MANY_CONNECTIONS
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::DATABASE_DROPPED
        | SqlState::IDLE_SESSION_TIMEOUT => true,
        // Class 08: connection exceptions.
        _ => state.code().starts_with("08") || state.code() == TRANSACTION_TIMEOUT,
    }
}

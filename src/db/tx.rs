//! The tenant transaction: the only way to a connection inside a slice.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use tokio::{sync::OnceCell, time::Instant};

use super::{
    pool::Lease,
    reach::Sight,
    tenant::Tenant,
    trail::{Change, Event},
};
use crate::{
    caller::{Caller, TenantId},
    error::{Error, Result},
};

/// A transaction of one tenant, for reading.
pub struct Tx {
    lease: Lease,
    tenant_id: TenantId,
    /// How far it sees.
    sight: Sight,
    /// The module of the call.
    module: &'static str,
    tenant: OnceCell<Tenant>,
    /// Whether someone was told about the modules before the tenant was here.
    guessed: AtomicBool,
    /// Whether a statement was sent whose answer has not been read to its end.
    unread: AtomicBool,
}

impl Tx {
    pub(super) fn new(lease: Lease, caller: &Caller) -> Self {
        Self {
            lease,
            tenant_id: caller.tenant.clone(),
            sight: Sight::of(caller),
            module: caller.module,
            tenant: OnceCell::const_new(),
            guessed: AtomicBool::new(false),
            unread: AtomicBool::new(false),
        }
    }

    pub(super) const fn sight(&self) -> &Sight {
        &self.sight
    }

    /// The id of the tenant. A query that is planned for its values binds it, so that the planner sees it: in the policy it is
    /// a sub-select, whose value no plan knows.
    pub fn tenant_id(&self) -> &str {
        self.tenant_id.as_str()
    }

    /// The module that the call belongs to.
    pub const fn module(&self) -> &'static str {
        self.module
    }

    /// The tenant, as the transaction found it at its beginning. The gate has sent for it, so whoever has had an answer from
    /// the database waits for nothing here.
    pub async fn tenant(&self) -> Result<&Tenant> {
        self.tenant.get_or_try_init(|| Tenant::find(self)).await
    }

    /// Whether the module of the call is off for some organization. This waits for nothing: as long as the tenant is not here
    /// the answer is no, and a read for which that was wrong is made again.
    pub fn some_off(&self) -> bool {
        if let Some(tenant) = self.tenant.get() {
            return tenant.is_off_below(self.module);
        }
        self.guessed.store(true, Ordering::Relaxed);
        false
    }

    /// Whether `some_off` has said no and should have said yes.
    pub(super) fn guessed_wrong(&self) -> bool {
        self.guessed.load(Ordering::Relaxed) && self.tenant.get().is_some_and(|tenant| tenant.is_off_below(self.module))
    }

    /// Denies a call whose module is off for the tenant.
    pub(super) async fn gate(&self) -> Result<()> {
        let off = self.tenant().await?.modules_off.iter().any(|off| off == self.module);
        if off { Err(Error::ModuleOff { module: self.module, organization_id: None }) } else { Ok(()) }
    }

    /// The connection, for Diesel: `query.load(&mut tx.conn())`. Several queries may be sent at once through it.
    #[expect(clippy::expect_used, reason = "a lease holds its connection until it is dropped, and this borrows it")]
    pub fn conn(&self) -> &AsyncPgConnection {
        self.lease.conn().expect("connection of a live lease").pg()
    }

    /// Sends what opens the transaction, in one message. Whoever polls this first may send queries behind it in the same
    /// flight: if it fails, they fail too, or see no tenant and so no row.
    pub(super) async fn begin(&self, mode: &str, caller: &Caller) -> Result<()> {
        let left = caller.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        // A tenant id has no character that could end the literal (TenantId).
        let sql =
            format!("BEGIN {mode};SET LOCAL app.tenant_id='{}';SET LOCAL statement_timeout={}", caller.tenant, left.as_millis());
        Ok((&mut self.conn()).batch_execute(&sql).await?)
    }

    /// Notes that nobody reads the rest of an answer. The statement is cancelled if it goes on for long.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Notes that every statement sent so far has been answered, unless nobody has read an answer to its end.
    pub(super) fn settled(&mut self) {
        if !self.unread.load(Ordering::Relaxed) {
            self.lease.settled();
        }
    }

    /// Ends the transaction with `COMMIT` or `ROLLBACK` and waits until the server has done so.
    pub(super) async fn end(mut self, how: &str) -> Result<()> {
        (&mut self.conn()).batch_execute(how).await?;
        self.lease.ended();
        Ok(())
    }
}

/// A transaction of one tenant that changes something, and what it has changed so far.
pub struct WriteTx {
    tx: Tx,
    trail: Mutex<Vec<Change>>,
}

impl WriteTx {
    pub(super) const fn new(tx: Tx) -> Self {
        Self { tx, trail: Mutex::new(Vec::new()) }
    }

    /// Adds a change to the activity trail; it is written before the transaction commits.
    pub fn record(&self, event: Event<'_>) {
        if let Some(change) = event.into_change() {
            self.trail.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        }
    }

    pub(super) fn take_trail(&self) -> Vec<Change> {
        std::mem::take(&mut *self.trail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Without the trail, once every statement has been answered.
    pub(super) fn settled(mut self) -> Tx {
        self.tx.settled();
        self.tx
    }
}

impl std::ops::Deref for WriteTx {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

/// Faults of the database as errors of the service. Violated constraints with a meaning are translated by the store that
/// knows them, before they get here.
impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};
        match &error {
            Diesel::DatabaseError(Kind::SerializationFailure, _) => Self::Retry,
            Diesel::DatabaseError(Kind::UnableToSendCommand | Kind::ClosedConnection, cause) => {
                tracing::warn!(cause = cause.message(), "database connection lost");
                Self::DatabaseUnavailable
            }
            // Partial unique indexes of this name hold "at most one": who loses the race for it tries again and wins or waits.
            Diesel::DatabaseError(Kind::UniqueViolation, info)
                if info.constraint_name().is_some_and(|name| name.ends_with("_at_most_one")) =>
            {
                Self::Retry
            }
            Diesel::DatabaseError(_, info) => match info.message() {
                "deadlock detected" => Self::Retry,
                // A statement beside this one has failed before this one had its turn.
                message if message.starts_with("current transaction is aborted") => Self::Retry,
                "canceling statement due to statement timeout" => Self::DeadlineExceeded,
                message if message.starts_with("terminating connection") || message.starts_with("the database system is") => {
                    tracing::warn!(cause = message, "database went away");
                    Self::DatabaseUnavailable
                }
                _ => Self::Internal(format!("database: {error}")),
            },
            _ => Self::Internal(format!("database: {error}")),
        }
    }
}

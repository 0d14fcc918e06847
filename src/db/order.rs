//! Statements that go to the database one behind the other, without waiting for the answers in
//! between.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use diesel::{
    QueryResult,
    deserialize::FromSqlRow,
    expression::QueryMetadata,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    query_dsl::CompatibleType,
    result::Error as DieselError,
};
use diesel_async::AsyncConnectionCore as _;
use futures_util::{TryStreamExt as _, future::BoxFuture};
use tokio::task::unconstrained;

use super::Tx;
use crate::error::{Error, Result};

/// A statement whose text does not depend on its values. A connection prepares it once.
///
/// Diesel prepares an UPDATE anew each time, because the values of a changeset may decide which
/// columns it sets. Here they do not: `Fields` set all of theirs.
struct Fixed<S>(S);

impl<S: QueryFragment<Pg>> QueryFragment<Pg> for Fixed<S> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

/// Diesel finds the prepared statement by its text.
impl<S> QueryId for Fixed<S> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S: Query> Query for Fixed<S> {
    type SqlType = S::SqlType;
}

impl Tx {
    /// Executes a statement whose text does not depend on its values, and returns how many rows it
    /// affects.
    pub fn send(&self, statement: impl QueryFragment<Pg>) -> BoxFuture<'_, QueryResult<usize>> {
        self.sending((&mut self.conn()).execute_returning_count(Fixed(statement)))
    }

    /// Executes a statement whose text does not depend on its values, and returns its first row.
    pub fn send_returning<S, R>(&self, statement: S) -> BoxFuture<'_, QueryResult<R>>
    where
        S: Query + QueryFragment<Pg>,
        S::SqlType: CompatibleType<R, Pg>,
        Pg: QueryMetadata<S::SqlType>,
        R: FromSqlRow<<S::SqlType as CompatibleType<R, Pg>>::SqlType, Pg> + 'static,
    {
        let rows = (&mut self.conn()).load(Fixed(statement));
        self.sending(async {
            let row = rows.await?.try_next().await?.ok_or(DieselError::NotFound)?;
            R::build_from_row(&row).map_err(DieselError::DeserializationError)
        })
    }

    /// Counts the statement if its first poll sends it.
    fn sending<'a, T>(
        &'a self,
        statement: impl Future<Output = T> + Send + 'a,
    ) -> BoxFuture<'a, T> {
        let mut statement = Box::pin(statement);
        let mut prepared = None;
        Box::pin(poll_fn(move |context| {
            let is_first = prepared.is_none();
            let prepared = *prepared.get_or_insert_with(|| self.prepared());
            let answer = statement.as_mut().poll(context);
            // The poll does not send the statement if the connection begins to prepare it, or still
            // prepares that of the gate.
            if is_first && self.prepared() == prepared && self.has_begun() {
                self.count_sent();
            }
            answer
        }))
    }

    /// Runs two futures of one statement each, and sends the second statement as soon as the first
    /// has been sent: both need one round trip. Nest it for three:
    /// `tx.together(one, tx.together(two, three))`.
    ///
    /// The second must not need the answer of the first. If the first fails, PostgreSQL refuses the
    /// second, and the error is that of the first. A future of several statements may only be the
    /// last one.
    ///
    /// A statement that the connection has not prepared yet is sent when it is prepared, and a
    /// statement that neither [`Tx::send`] nor [`Tx::send_returning`] runs may be. The second future
    /// then waits for the answer of the first, so that nothing overtakes it.
    pub async fn together<A: Send, B: Send>(
        &self,
        first: impl Future<Output = Result<A>> + Send,
        second: impl Future<Output = Result<B>> + Send,
    ) -> Result<(A, B)> {
        let (mut first, mut second) = (pin!(first), pin!(second));
        let (mut one, mut two) = (None, None);
        let (mut is_sent, mut has_begun) = (None, false);
        let sent = self.sent();
        let both = poll_fn(|context| {
            if one.is_none()
                && let Poll::Ready(answer) = first.as_mut().poll(context)
            {
                one = Some(answer);
            }
            let is_sent = *is_sent.get_or_insert_with(|| self.sent() > sent);
            if !has_begun {
                match &one {
                    Some(Err(_)) => return Poll::Ready(()),
                    None if !is_sent => return Poll::Pending,
                    _ => has_begun = true,
                }
            }
            if two.is_none()
                && let Poll::Ready(answer) = second.as_mut().poll(context)
            {
                two = Some(answer);
            }
            if one.is_some() && two.is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        // Tokio's budget for a task can make a lock that nobody holds look taken. The first poll
        // would then end before the statement is sent, and the second statement overtake it.
        unconstrained(both).await;
        match (one, two) {
            (Some(Ok(one)), Some(two)) => Ok((one, two?)),
            (Some(Err(error)), _) => Err(error),
            _ => Err(Error::internal("statements that were sent together have no answer")),
        }
    }
}

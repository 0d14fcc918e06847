//! A batch of an import: one transaction.
//!
//! A row can be refused after something of it was written, by a check that must see the result.
//! There are no savepoints: the row is remembered, the transaction rolled back, and the batch
//! written again without it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::task::yield_now;

use super::{
    plan::{Plan, Present},
    references::References,
    refusals,
    row::Row,
    wire::{Action, Outcome, Refused, answer},
    write::{Again, Written, write},
};
use crate::{
    caller::Caller,
    db::{Db, Meta, WriteTx},
    error::{Error, Result},
    proto::{ImportAccountsRequest, ImportAccountsResponse},
    validate::Violations,
};

/// Rows that are worked on before the task yields, which takes less than a millisecond.
const TURN: usize = 32;

/// Rows of a batch from which on new plans cost less than old ones can.
const MANY: usize = 100;

/// A batch.
#[derive(Debug)]
pub struct Batch {
    rows: Vec<Row>,
    action: Action,
    all_or_nothing: bool,
    /// The rows that an attempt refused too late, by position.
    late: Mutex<BTreeMap<usize, Refused>>,
    /// The answer to a batch of which nothing is kept because a row was refused.
    undone: Mutex<Option<ImportAccountsResponse>>,
}

impl Batch {
    /// Parses a batch. What is wrong with a row refuses the row.
    pub async fn parse(caller: &Caller, request: ImportAccountsRequest) -> Result<(Meta, Self)> {
        let mut v = Violations::default();
        let meta = Meta::of(&mut v, caller, &request);
        if request.rows.is_empty() {
            v.add("rows", "must have at least 1 entry");
        }
        let action = Action::parse(&mut v, request.action);
        let all_or_nothing = request.all_or_nothing;
        let (meta, action) = v.finish((meta, action))?;
        let mut rows = Vec::with_capacity(request.rows.len());
        let mut numbers = BTreeMap::new();
        for (position, row) in request.rows.into_iter().enumerate() {
            if position % TURN == TURN - 1 {
                yield_now().await;
            }
            let mut row = Row::parse(position, row);
            if !row.account_id.is_empty() {
                match numbers.entry(row.account_id.clone()) {
                    Entry::Occupied(earlier) => row.refuse_as_duplicate(*earlier.get()),
                    Entry::Vacant(first) => drop(first.insert(row.number)),
                }
            }
            rows.push(row);
        }
        let (late, undone) = (Mutex::default(), Mutex::default());
        Ok((meta, Self { rows, action, all_or_nothing, late, undone }))
    }

    /// Imports the batch, and returns what became of each row.
    pub async fn import(
        &self,
        db: &Db,
        caller: &Caller,
        meta: &Meta,
    ) -> Result<ImportAccountsResponse> {
        loop {
            let known = locked(&self.late).len();
            // Boxed, because it would make the future of the stream larger.
            let committed =
                Box::pin(db.write(caller, meta, async |tx| self.attempt(tx).await)).await;
            let undone = locked(&self.undone).take();
            if committed.is_ok() {
                return committed;
            }
            if let Some(answer) = undone {
                return Ok(answer);
            }
            if locked(&self.late).len() == known {
                return committed;
            }
        }
    }

    async fn attempt(&self, tx: &WriteTx) -> Result<ImportAccountsResponse> {
        locked(&self.undone).take();
        if self.rows.len() >= MANY {
            tx.discard_plans().await?;
        }
        let (mut plans, again) = self.plans(tx).await?;
        let references = References::hold(tx, &mut plans).await?;
        if !references.late.is_empty() && !self.all_or_nothing {
            return Err(self.without(references.late));
        }
        let Written { mut outcomes, late } =
            write(tx, plans, Again { rows: again, action: self.action }, &references).await?;
        let is_whole = outcomes.len() == self.rows.len();
        let may_stay = late.is_empty() || (self.all_or_nothing && is_whole);
        if !may_stay {
            return Err(self.without(late));
        }
        let created = references.organizations_created;
        if self.all_or_nothing && outcomes.iter().any(Outcome::is_refused) {
            for outcome in outcomes.iter_mut().filter(|outcome| !outcome.is_refused()) {
                *outcome = Outcome::Refused(refusals::batch_refused().into());
            }
            *locked(&self.undone) = Some(answer(&self.rows, outcomes, 0));
            return Err(refusals::batch_refused());
        }
        Ok(answer(&self.rows, outcomes, created))
    }

    /// Remembers rows that were refused too late. The error undoes the attempt; it is no lost race,
    /// of which there may be few only.
    fn without(&self, late: BTreeMap<usize, Refused>) -> Error {
        locked(&self.late).extend(late);
        refusals::batch_refused()
    }

    /// What is done with each row; and the rows, by position, that must be looked at again when their
    /// turn comes, because an earlier row changes their account: that is the primary account of its
    /// organization, and no longer when another one is made that.
    async fn plans(&self, tx: &WriteTx) -> Result<(Vec<Plan<'_>>, BTreeMap<usize, &Row>)> {
        let late = locked(&self.late).clone();
        let present = Present::lock(tx, &self.rows).await?;
        let mut plans = Vec::with_capacity(self.rows.len());
        // The organizations that get another primary account.
        let mut taken = BTreeSet::new();
        let mut again = BTreeMap::new();
        for (position, row) in self.rows.iter().enumerate() {
            if position % TURN == TURN - 1 {
                yield_now().await;
            }
            let plan = match late.get(&position) {
                Some(why) => Plan::Refuse(why.clone()),
                None => present.plan(tx, self.action, row).await?,
            };
            let is_refused = matches!(plan, Plan::Refuse(_));
            if !is_refused && present.has_primary(row).is_some_and(|it| taken.contains(it)) {
                again.insert(position, row);
            } else if let Some(organization) = plan.takes_primary() {
                taken.insert(organization.to_owned());
            }
            plans.push(plan);
        }
        Ok((plans, again))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The steps that move a contract: one mechanism, with the rules of `terms`.

use chrono::NaiveDate;

use super::{
    refusals,
    store::{Contract, Kept, OnDay, require_not_inactive},
    terms::{Step, Unfit},
};
use crate::{db::WriteTx, error::Result, validate::Violations};

/// A step that a request asks for.
#[derive(Debug)]
pub struct Asked {
    /// The step.
    pub step: Step,
    /// The reason that the request gives.
    pub reason: String,
    /// The date that the request names.
    pub date: Option<NaiveDate>,
}

impl Kept {
    /// Takes a step as `actor`.
    pub async fn take(self, tx: &WriteTx, asked: &Asked, actor: &str) -> Result<OnDay> {
        let Self { account, on_day: OnDay(contract, today) } = self;
        let now = tx.now().await?;
        let terms = match contract.terms.after(asked.step, asked.date, today, now) {
            Ok(terms) => terms,
            Err(Unfit::Date(field, rule)) => {
                let mut v = Violations::default();
                v.add(field, rule);
                return v.finish(OnDay(contract, today));
            }
            Err(Unfit::State(state)) => {
                let allowed: Vec<_> = contract.terms.allowed(today).map(Step::call).collect();
                let Contract { contract_id: id, .. } = &contract;
                return Err(refusals::contract_state_transition(id, state, asked.step, &allowed));
            }
        };
        let mut steps = contract.steps.clone();
        match asked.step {
            Step::Submit => {
                require_not_inactive(&account)?;
                steps.state_reason.clear();
                (steps.submit_time, steps.submitter) = (Some(now), Some(actor.to_owned()));
            }
            Step::Approve => {
                require_not_inactive(&account)?;
                (steps.approve_time, steps.approver) = (Some(now), Some(actor.to_owned()));
            }
            Step::Reject | Step::Void | Step::Cancel | Step::Terminate => {
                steps.state_reason.clone_from(&asked.reason);
            }
            Step::Uncancel => {}
        }
        let fields = contract.fields.clone();
        contract.update(tx, &fields, &terms, &steps).await
    }
}

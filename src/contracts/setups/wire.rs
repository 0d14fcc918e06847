//! Converts delivery setups between messages of the contract and rows.

use super::{DeliverySetup, Fields, Filter, NewSetup, SetupState, Shown};
use crate::{
    accounts::scope::Scope,
    change::{Update, Versioned as _},
    enums::contract_enum,
    error::Result,
    mask::Elsewhere,
    proto::{self, DeliverySetupState},
    validate::Violations,
    wire::{timestamp, to_date},
};

const MAX_PROJECT: usize = 100;
const MAX_MODEL: usize = 50;
const MAX_DESCRIPTION: usize = 2000;
const MAX_REASON: usize = 500;

/// The fields that an update does not change although it can name them.
pub const ELSEWHERE: &Elsewhere =
    &[("contract_id", "cannot be changed: a delivery setup stays with its contract")];

contract_enum!(SetupState = DeliverySetupState { Planned, Ready, Active, Completed, Cancelled });

impl Fields {
    fn parse(v: &mut Violations, wanted: proto::DeliverySetup) -> Self {
        let start_date = v.date("delivery_setup.start_date", wanted.start_date);
        let end_date = v.date("delivery_setup.end_date", wanted.end_date);
        if start_date.zip(end_date).is_some_and(|(start, end)| end < start) {
            v.add("delivery_setup.end_date", "must not be before start_date");
        }
        let project = v.required_line("delivery_setup.project_id", wanted.project_id, MAX_PROJECT);
        let model =
            v.required_line("delivery_setup.delivery_model", wanted.delivery_model, MAX_MODEL);
        Self {
            project_id: project,
            delivery_model: model,
            description: v.text("delivery_setup.description", wanted.description, MAX_DESCRIPTION),
            state: SetupState::parse(v, "delivery_setup.state", wanted.state)
                .unwrap_or(SetupState::Planned),
            state_reason: v.text("delivery_setup.state_reason", wanted.state_reason, MAX_REASON),
            start_date,
            end_date,
        }
    }
}

impl NewSetup {
    /// Parses a create request.
    pub fn parse(v: &mut Violations, request: proto::CreateDeliverySetupRequest) -> Self {
        let mut wanted = v.message("delivery_setup", request.delivery_setup);
        let id = std::mem::take(&mut wanted.delivery_setup_id);
        let contract_id = std::mem::take(&mut wanted.contract_id);
        Self {
            delivery_setup_id: v.new_id("delivery_setup.delivery_setup_id", id, "dset"),
            contract_id: v.id("delivery_setup.contract_id", contract_id),
            fields: Fields::parse(v, wanted),
        }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListDeliverySetupsRequest) -> Self {
        let project_id = v.line("project_id", request.project_id, MAX_PROJECT);
        let states = (0..).zip(request.states).filter_map(|(i, number)| {
            let field = format!("states[{i}]");
            if number == 0 {
                v.add(&field, "must not be DELIVERY_SETUP_STATE_UNSPECIFIED");
            }
            SetupState::parse(v, &field, number)
        });
        let states = states.collect();
        Self {
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
            contract_id: v.optional_id("contract_id", request.contract_id),
            project_id: (!project_id.is_empty()).then_some(project_id),
            states,
        }
    }
}

impl Update<proto::DeliverySetup> {
    /// Returns the fields that the update leads to. A state reason explains one state, so a new
    /// state without a reason clears the old one.
    pub fn fields(&self, current: &Shown) -> Result<Fields> {
        let mut draft = self.apply(current)?;
        if draft.merged.state == DeliverySetupState::Unspecified as i32 {
            draft.refuse("state", "must be specified when the update mask names it");
        }
        let mut fields = draft.parse(Fields::parse)?;
        if fields.state != current.0.fields.state && !self.has("state_reason") {
            fields.state_reason.clear();
        }
        draft.finish(fields)
    }
}

impl From<Shown> for proto::DeliverySetup {
    fn from(row: Shown) -> Self {
        let etag = row.etag();
        let Shown(row, contract_state) = row;
        let DeliverySetup { delivery_setup_id, contract_id, account_id, fields, .. } = row;
        Self {
            etag,
            delivery_setup_id,
            contract_id,
            account_id,
            project_id: fields.project_id,
            delivery_model: fields.delivery_model,
            description: fields.description,
            state: fields.state.into(),
            state_reason: fields.state_reason,
            start_date: fields.start_date.map(to_date),
            end_date: fields.end_date.map(to_date),
            contract_state: contract_state.into(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

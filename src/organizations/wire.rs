//! Organizations between the contract and the rows.

use super::store::{Filter, NewOrganization, Organization};
use crate::{
    caller::Caller,
    error::Result,
    page::Page,
    proto,
    validate::Violations,
    wire::{etag, timestamp},
};

const MAX_NAME: usize = 200;
const MAX_QUERY: usize = 200;

impl NewOrganization {
    /// A valid new organization, or every violation of the request.
    pub fn parse(request: proto::CreateOrganizationRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let organization = v.message("organization", request.organization);
        let new = Self {
            organization_id: v.new_id("organization.organization_id", organization.organization_id, "org"),
            display_name: v.required_line("organization.display_name", organization.display_name, MAX_NAME),
            parent_id: v.optional_id("organization.parent_id", organization.parent_id),
        };
        v.finish(new)
    }
}

/// The id of a get request.
pub fn id(request: proto::GetOrganizationRequest) -> Result<String> {
    let mut v = Violations::default();
    let id = v.id("organization_id", request.organization_id);
    v.finish(id)
}

impl Filter {
    /// What a list request asks for, and which page of it.
    pub fn parse(caller: &Caller, mut request: proto::ListOrganizationsRequest) -> Result<(Self, Page)> {
        let mut v = Violations::default();
        let page = Page::take(&mut v, caller, &mut request)?;
        let filter =
            Self { query: v.text("query", request.query, MAX_QUERY), parent_id: v.optional_id("parent_id", request.parent_id) };
        v.finish((filter, page))
    }
}

impl From<Organization> for proto::Organization {
    fn from(row: Organization) -> Self {
        Self {
            etag: etag(row.create_time, row.revision),
            organization_id: row.organization_id,
            display_name: row.display_name,
            parent_id: row.parent_id.unwrap_or_default(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

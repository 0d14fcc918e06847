//! Converts organizations between messages of the contract and rows.

use super::store::{Fields, Filter, NewOrganization, Organization};
use crate::{
    change::{ById, Update, Versioned as _},
    error::Result,
    metadata::Metadata,
    people::store::Filter as PeopleFilter,
    proto, search,
    validate::Violations,
    wire::timestamp,
};

const MAX_NAME: usize = 200;

impl Fields {
    fn parse(v: &mut Violations, organization: proto::Organization) -> Self {
        let name = organization.display_name;
        let display_name = v.required_line("organization.display_name", name, MAX_NAME);
        Self {
            sort_key: search::fold(&display_name),
            display_name,
            metadata: Metadata::parse(v, "organization.metadata", organization.metadata),
        }
    }
}

impl NewOrganization {
    /// Parses a create request.
    pub fn parse(v: &mut Violations, request: proto::CreateOrganizationRequest) -> Self {
        let mut organization = v.message("organization", request.organization);
        let id = std::mem::take(&mut organization.organization_id);
        let parent_id = std::mem::take(&mut organization.parent_id);
        Self {
            organization_id: v.new_id("organization.organization_id", id, "org"),
            fields: Fields::parse(v, organization),
            parent_id: v.optional_id("organization.parent_id", parent_id),
        }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListOrganizationsRequest) -> Self {
        if request.roots_only && !request.parent_id.is_empty() {
            v.add("roots_only", "must not be set together with parent_id");
        }
        Self {
            query: v.query("query", request.query),
            parent_id: v.optional_id("parent_id", request.parent_id),
            roots_only: request.roots_only,
            person_id: v.optional_id("person_id", request.person_id),
            metadata: Metadata::parse(v, "metadata", request.metadata),
        }
    }
}

impl Update<proto::Organization> {
    /// Returns the fields that the update leads to.
    pub fn fields(&self, current: &Organization) -> Result<Fields> {
        let mut draft = self.apply(current)?;
        if draft.merged.parent_id != current.parent_id.as_deref().unwrap_or_default() {
            draft.refuse("parent_id", "is changed by MoveOrganization only");
        }
        let fields = draft.parse(Fields::parse)?;
        draft.finish(fields)
    }
}

/// A move of an organization.
pub struct Move {
    /// The organization that moves, and its etag.
    pub named: ById,
    /// The new parent; `None` for the top.
    pub parent_id: Option<String>,
}

impl Move {
    /// Parses a move request.
    pub fn parse(v: &mut Violations, mut request: proto::MoveOrganizationRequest) -> Self {
        let parent_id = std::mem::take(&mut request.parent_id);
        let named = ById::parse(v, request);
        Self { named, parent_id: v.optional_id("parent_id", parent_id) }
    }
}

/// A member to add to an organization or to remove from it.
pub struct Member {
    /// The organization.
    pub organization_id: String,
    /// The person.
    pub person_id: String,
}

impl Member {
    /// Parses a request to add a member.
    pub fn to_add(v: &mut Violations, request: proto::AddOrganizationMemberRequest) -> Self {
        Self::parse(v, request.organization_id, request.person_id)
    }

    /// Parses a request to remove a member.
    pub fn to_remove(v: &mut Violations, request: proto::RemoveOrganizationMemberRequest) -> Self {
        Self::parse(v, request.organization_id, request.person_id)
    }

    fn parse(v: &mut Violations, organization_id: String, person_id: String) -> Self {
        let organization_id = v.id("organization_id", organization_id);
        Self { organization_id, person_id: v.id("person_id", person_id) }
    }
}

/// Parses a request for the members of an organization: its id, and which people to list.
pub fn members(
    v: &mut Violations,
    request: proto::ListOrganizationMembersRequest,
) -> (String, PeopleFilter) {
    let id = v.id("organization_id", request.organization_id);
    let filter = PeopleFilter {
        query: String::new(),
        organization_id: Some(id.clone()),
        include_descendants: request.include_descendants,
        kind: None,
        subject: None,
    };
    (id, filter)
}

impl From<Organization> for proto::Organization {
    fn from(row: Organization) -> Self {
        Self {
            etag: row.etag(),
            organization_id: row.organization_id,
            display_name: row.fields.display_name,
            metadata: row.fields.metadata.0,
            parent_id: row.parent_id.unwrap_or_default(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

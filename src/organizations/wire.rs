//! Organizations between the contract and the rows.

use std::collections::BTreeMap;

use super::{
    refusals::ORGANIZATION,
    store::{Fields, Filter, NewOrganization, Organization},
};
use crate::{
    batch::Ids,
    caller::Caller,
    error::Result,
    mask::Mask,
    metadata::Metadata,
    page::Page,
    people::store::Filter as PeopleFilter,
    proto, search,
    validate::Violations,
    wire::{etag, require_etag, timestamp},
};

const MAX_NAME: usize = 200;

impl Fields {
    fn parse(v: &mut Violations, display_name: String, metadata: BTreeMap<String, String>) -> Self {
        let display_name = v.required_line("organization.display_name", display_name, MAX_NAME);
        let sort_key = search::fold(&display_name);
        Self {
            display_name,
            sort_key,
            metadata: Metadata::parse(v, "organization.metadata", metadata),
        }
    }
}

impl NewOrganization {
    /// A valid new organization, or every violation of the request.
    pub fn parse(request: proto::CreateOrganizationRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let organization = v.message("organization", request.organization);
        let new = Self {
            organization_id: v.new_id(
                "organization.organization_id",
                organization.organization_id,
                "org",
            ),
            fields: Fields::parse(&mut v, organization.display_name, organization.metadata),
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

/// The ids of a batch get request.
pub fn ids(request: proto::BatchGetOrganizationsRequest) -> Result<Ids> {
    Ids::parse("organization_ids", request.organization_ids)
}

impl Filter {
    /// What a list request asks for, and which page of it.
    pub fn parse(
        caller: &Caller,
        mut request: proto::ListOrganizationsRequest,
    ) -> Result<(Self, Page)> {
        let mut v = Violations::default();
        let page = Page::take(&mut v, caller, &mut request)?;
        if request.roots_only && !request.parent_id.is_empty() {
            v.add("roots_only", "must not be set together with parent_id");
        }
        let filter = Self {
            query: v.query("query", request.query),
            parent_id: v.optional_id("parent_id", request.parent_id),
            roots_only: request.roots_only,
            person_id: v.optional_id("person_id", request.person_id),
            metadata: Metadata::parse(&mut v, "metadata", request.metadata),
        };
        v.finish((filter, page))
    }
}

/// An update as it was asked for; what it comes to depends on the present organization.
pub struct Update {
    /// Which organization.
    pub id: String,
    wanted: proto::Organization,
    mask: Mask,
}

impl Update {
    /// The update, or every violation that shows without the present organization.
    pub fn parse(request: proto::UpdateOrganizationRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let wanted = v.message("organization", request.organization);
        let id = v.id("organization.organization_id", wanted.organization_id.clone());
        let mask = Mask::parse(&mut v, &wanted, request.update_mask, &[])?;
        v.finish(Self { id, wanted, mask })
    }

    /// The fields that the organization gets; its place in the forest is not changed here.
    pub fn apply(&self, current: &Organization) -> Result<Fields> {
        let present = proto::Organization::from(current.clone());
        require_etag(&self.wanted.etag, &present.etag, &ORGANIZATION, &self.id)?;
        let mut v = Violations::default();
        let merged = self.mask.apply(&mut v, "organization", &present, &self.wanted)?;
        if merged.parent_id != present.parent_id {
            v.add("organization.parent_id", "is changed by MoveOrganization only");
        }
        let fields = v.update("organization", &present, &merged, |v, organization| {
            Fields::parse(v, organization.display_name, organization.metadata)
        })?;
        v.finish(fields)
    }
}

/// A change that names an organization and perhaps its etag, as it was asked for.
pub struct Change {
    /// Which organization.
    pub id: String,
    /// Where to, when it is to be moved; `None` is the top.
    pub parent_id: Option<String>,
    etag: String,
}

impl Change {
    /// A move, or every violation of the request.
    pub fn of_place(request: proto::MoveOrganizationRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let id = v.id("organization_id", request.organization_id);
        let parent_id = v.optional_id("parent_id", request.parent_id);
        v.finish(Self { id, parent_id, etag: request.etag })
    }

    /// A deletion, or every violation of the request.
    pub fn to_nothing(request: proto::DeleteOrganizationRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let id = v.id("organization_id", request.organization_id);
        v.finish(Self { id, parent_id: None, etag: request.etag })
    }

    /// Refuses to change an organization that has changed since the caller read it.
    pub fn check(&self, current: &Organization) -> Result<()> {
        require_etag(
            &self.etag,
            &etag(current.create_time, current.revision),
            &ORGANIZATION,
            &self.id,
        )
    }
}

/// Who is to become, or to stop being, a member of what.
pub struct Member {
    /// The organization.
    pub organization_id: String,
    /// The person.
    pub person_id: String,
}

impl Member {
    /// The pair of ids, or every violation of the request that has them.
    pub fn parse(organization_id: String, person_id: String, request_id: &str) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(request_id);
        let organization_id = v.id("organization_id", organization_id);
        let person_id = v.id("person_id", person_id);
        v.finish(Self { organization_id, person_id })
    }
}

/// The members that a list request asks for, and which page of them.
pub fn members(
    caller: &Caller,
    mut request: proto::ListOrganizationMembersRequest,
) -> Result<(String, PeopleFilter, Page)> {
    let mut v = Violations::default();
    let page = Page::take(&mut v, caller, &mut request)?;
    let id = v.id("organization_id", request.organization_id);
    let filter = PeopleFilter {
        query: String::new(),
        organization_id: Some(id.clone()),
        include_descendants: request.include_descendants,
        kind: None,
        subject: None,
    };
    v.finish((id, filter, page))
}

impl From<Organization> for proto::Organization {
    fn from(row: Organization) -> Self {
        Self {
            etag: etag(row.create_time, row.revision),
            organization_id: row.organization_id,
            display_name: row.fields.display_name,
            metadata: row.fields.metadata.0,
            parent_id: row.parent_id.unwrap_or_default(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

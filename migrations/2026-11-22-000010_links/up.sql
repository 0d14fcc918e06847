-- Few accounts are linked to more than their own organization. Who sees a part of the tenant sees the people behind those links.
CREATE INDEX account_organizations_linked_idx ON account_organizations (tenant_id, organization_id, account_id) WHERE NOT own;

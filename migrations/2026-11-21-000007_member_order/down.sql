ALTER TABLE account_users DROP CONSTRAINT account_users_person_fkey;
ALTER TABLE organization_members DROP CONSTRAINT organization_members_person_fkey;
ALTER TABLE people DROP CONSTRAINT people_sort_key_key;
CREATE INDEX people_sort_key_idx ON people (tenant_id, sort_key, person_id);
ALTER TABLE account_users DROP COLUMN sort_key, DROP COLUMN person_create_time;
ALTER TABLE organization_members DROP COLUMN sort_key, DROP COLUMN person_create_time;
-- The indexes went with the columns.
CREATE INDEX organization_members_person_idx ON organization_members (tenant_id, person_id, organization_id);
CREATE INDEX account_users_person_idx ON account_users (tenant_id, person_id, account_id);
-- The owner sees the rows of all tenants while it checks that their people are there.
ALTER TABLE people NO FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_members NO FORCE ROW LEVEL SECURITY;
ALTER TABLE account_users NO FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_members ADD CONSTRAINT organization_members_person_fkey FOREIGN KEY (tenant_id, person_id)
    REFERENCES people ON DELETE CASCADE;
ALTER TABLE account_users ADD CONSTRAINT account_users_person_fkey FOREIGN KEY (tenant_id, person_id)
    REFERENCES people ON DELETE CASCADE;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_members FORCE ROW LEVEL SECURITY;
ALTER TABLE account_users FORCE ROW LEVEL SECURITY;

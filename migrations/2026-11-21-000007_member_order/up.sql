-- The members of an organization and the users of an account, in the order of lists: what people are ordered by stands beside
-- each of their memberships. Foreign keys keep it right: a change of name goes along with them.

ALTER TABLE organization_members DROP CONSTRAINT organization_members_person_fkey;
ALTER TABLE organization_members ADD COLUMN sort_key text COLLATE "C";
ALTER TABLE organization_members ADD COLUMN person_create_time timestamptz;
ALTER TABLE account_users DROP CONSTRAINT account_users_person_fkey;
ALTER TABLE account_users ADD COLUMN sort_key text COLLATE "C";
ALTER TABLE account_users ADD COLUMN person_create_time timestamptz;

-- For these statements the owner sees the rows of all tenants.
ALTER TABLE people NO FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_members NO FORCE ROW LEVEL SECURITY;
ALTER TABLE account_users NO FORCE ROW LEVEL SECURITY;
UPDATE organization_members SET sort_key = people.sort_key, person_create_time = people.create_time FROM people
    WHERE people.tenant_id = organization_members.tenant_id AND people.person_id = organization_members.person_id;
UPDATE account_users SET sort_key = people.sort_key, person_create_time = people.create_time FROM people
    WHERE people.tenant_id = account_users.tenant_id AND people.person_id = account_users.person_id;

ALTER TABLE organization_members ALTER COLUMN sort_key SET NOT NULL, ALTER COLUMN person_create_time SET NOT NULL;
ALTER TABLE account_users ALTER COLUMN sort_key SET NOT NULL, ALTER COLUMN person_create_time SET NOT NULL;

-- The same columns as before, now to be referred to.
DROP INDEX people_sort_key_idx;
ALTER TABLE people ADD CONSTRAINT people_sort_key_key UNIQUE (tenant_id, sort_key, person_id);
ALTER TABLE organization_members ADD CONSTRAINT organization_members_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
    REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE account_users ADD CONSTRAINT account_users_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
    REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_members FORCE ROW LEVEL SECURITY;
ALTER TABLE account_users FORCE ROW LEVEL SECURITY;

-- Those by person get the column as well, to serve the foreign keys.
DROP INDEX organization_members_person_idx;
CREATE INDEX organization_members_person_idx ON organization_members (tenant_id, person_id, sort_key, organization_id);
DROP INDEX account_users_person_idx;
CREATE INDEX account_users_person_idx ON account_users (tenant_id, person_id, sort_key, account_id);

CREATE INDEX organization_members_sort_key_idx ON organization_members (tenant_id, organization_id, sort_key, person_id);
CREATE INDEX organization_members_create_time_idx
    ON organization_members (tenant_id, organization_id, person_create_time, person_id);
CREATE INDEX account_users_sort_key_idx ON account_users (tenant_id, account_id, sort_key, person_id) WHERE individual;
CREATE INDEX account_users_create_time_idx ON account_users (tenant_id, account_id, person_create_time, person_id) WHERE individual;
CREATE INDEX account_users_billing_idx ON account_users (tenant_id, account_id, sort_key, person_id) WHERE billing;
CREATE INDEX account_users_billing_time_idx ON account_users (tenant_id, account_id, person_create_time, person_id) WHERE billing;

COMMENT ON COLUMN organization_members.sort_key IS 'The sort_key of the person: the order of lists of members.';
COMMENT ON COLUMN organization_members.person_create_time IS 'The create_time of the person: the other order of lists of members.';
COMMENT ON COLUMN account_users.sort_key IS 'The sort_key of the person: the order of lists of users.';
COMMENT ON COLUMN account_users.person_create_time IS 'The create_time of the person: the other order of lists of users.';

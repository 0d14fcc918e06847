-- Who may use an account: individual users, linked organizations, the contacts among them, and where a person buys.

CREATE TABLE account_users (
    tenant_id   text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    account_id  text COLLATE "C" NOT NULL,
    person_id   text COLLATE "C" NOT NULL,
    individual  boolean NOT NULL,
    roles       text[] NOT NULL DEFAULT '{}',
    billing     boolean NOT NULL DEFAULT false,
    start_date  date,
    end_date    date,
    revision    bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_users_pkey PRIMARY KEY (tenant_id, account_id, person_id),
    CONSTRAINT account_users_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts ON DELETE CASCADE,
    CONSTRAINT account_users_person_fkey FOREIGN KEY (tenant_id, person_id) REFERENCES people ON DELETE CASCADE,
    CONSTRAINT account_users_dates CHECK (individual OR (start_date IS NULL AND end_date IS NULL)),
    CONSTRAINT account_users_span CHECK (end_date >= start_date)
);
CREATE INDEX account_users_person_idx ON account_users (tenant_id, person_id, account_id);

COMMENT ON TABLE account_users IS 'What is set for a person on an account: whether they are an individual user, and roles and billing flag whatever they are a user through.';
COMMENT ON COLUMN account_users.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN account_users.account_id IS 'The account.';
COMMENT ON COLUMN account_users.person_id IS 'The person.';
COMMENT ON COLUMN account_users.individual IS 'Whether the person was added by name; otherwise they are a user through organizations only.';
COMMENT ON COLUMN account_users.roles IS 'Roles on the account, in alphabetical order.';
COMMENT ON COLUMN account_users.billing IS 'Whether the person gets the invoices.';
COMMENT ON COLUMN account_users.start_date IS 'First day of an individual membership, in UTC; null for no bound.';
COMMENT ON COLUMN account_users.end_date IS 'Last day of an individual membership, in UTC; null for no bound.';
COMMENT ON COLUMN account_users.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN account_users.create_time IS 'When the row was created.';
COMMENT ON COLUMN account_users.update_time IS 'When the row was last changed.';

CREATE TABLE account_organizations (
    tenant_id           text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    account_id          text COLLATE "C" NOT NULL,
    organization_id     text COLLATE "C" NOT NULL,
    own                 boolean NOT NULL,
    include_descendants boolean NOT NULL DEFAULT false,
    create_time         timestamptz NOT NULL DEFAULT now(),
    update_time         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_organizations_pkey PRIMARY KEY (tenant_id, account_id, organization_id),
    CONSTRAINT account_organizations_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts ON DELETE CASCADE,
    CONSTRAINT account_organizations_organization_fkey FOREIGN KEY (tenant_id, organization_id) REFERENCES organizations
);
CREATE INDEX account_organizations_organization_idx ON account_organizations (tenant_id, organization_id, account_id);
CREATE UNIQUE INDEX account_organizations_own_key ON account_organizations (tenant_id, account_id) WHERE own;

COMMENT ON TABLE account_organizations IS 'The organizations linked to an account, its own included: their members are its users.';
COMMENT ON COLUMN account_organizations.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN account_organizations.account_id IS 'The account.';
COMMENT ON COLUMN account_organizations.organization_id IS 'The organization.';
COMMENT ON COLUMN account_organizations.own IS 'Whether it is the organization the account belongs to, which is always linked.';
COMMENT ON COLUMN account_organizations.include_descendants IS 'Whether the link covers the organizations below too.';
COMMENT ON COLUMN account_organizations.create_time IS 'When the link was made.';
COMMENT ON COLUMN account_organizations.update_time IS 'When the link was last changed.';

ALTER TABLE account_users ENABLE ROW LEVEL SECURITY;
ALTER TABLE account_users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account_users USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON account_users TO customer_accounts_app;

-- Every account there is has its own organization linked. For this one statement the owner sees the rows of all tenants.
ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY;
INSERT INTO account_organizations (tenant_id, account_id, organization_id, own)
    SELECT tenant_id, account_id, organization_id, true FROM accounts;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;

ALTER TABLE account_organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE account_organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account_organizations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON account_organizations TO customer_accounts_app;

ALTER TABLE accounts ADD COLUMN primary_contact_id text COLLATE "C";
ALTER TABLE accounts ADD COLUMN billing_contact_id text COLLATE "C";
ALTER TABLE accounts ADD COLUMN cc_billing_contact_id text COLLATE "C";
ALTER TABLE accounts ADD CONSTRAINT accounts_primary_contact_fkey FOREIGN KEY (tenant_id, primary_contact_id) REFERENCES people;
ALTER TABLE accounts ADD CONSTRAINT accounts_billing_contact_fkey FOREIGN KEY (tenant_id, billing_contact_id) REFERENCES people;
ALTER TABLE accounts ADD CONSTRAINT accounts_cc_billing_contact_fkey FOREIGN KEY (tenant_id, cc_billing_contact_id) REFERENCES people;
CREATE INDEX accounts_primary_contact_idx ON accounts (tenant_id, primary_contact_id);
CREATE INDEX accounts_billing_contact_idx ON accounts (tenant_id, billing_contact_id);
CREATE INDEX accounts_cc_billing_contact_idx ON accounts (tenant_id, cc_billing_contact_id);
COMMENT ON COLUMN accounts.primary_contact_id IS 'The user who is the primary contact, instead of one named inline; null for none.';
COMMENT ON COLUMN accounts.billing_contact_id IS 'The user who gets the invoices; null for none.';
COMMENT ON COLUMN accounts.cc_billing_contact_id IS 'The user who gets copies of the invoices; null for none.';

ALTER TABLE people ADD COLUMN purchasing_account_id text COLLATE "C";
ALTER TABLE people ADD CONSTRAINT people_purchasing_account_fkey FOREIGN KEY (tenant_id, purchasing_account_id)
    REFERENCES accounts ON DELETE SET NULL (purchasing_account_id);
CREATE INDEX people_purchasing_account_idx ON people (tenant_id, purchasing_account_id);
COMMENT ON COLUMN people.purchasing_account_id IS 'The account the person buys on; null for none. No part of the version.';

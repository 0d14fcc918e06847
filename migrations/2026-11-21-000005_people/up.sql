-- People, which organizations they belong to, and which accounts they manage.

CREATE TABLE tenants (
    tenant_id   text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id)
);

COMMENT ON TABLE tenants IS 'One row for each tenant whose organizations have been put below one another: locked by whoever changes the shape of the forest.';
COMMENT ON COLUMN tenants.tenant_id IS 'The tenant.';
COMMENT ON COLUMN tenants.create_time IS 'When the tenant was first seen.';

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenants USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE ON tenants TO customer_accounts_app;

CREATE TABLE people (
    tenant_id    text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    person_id    text COLLATE "C" NOT NULL CHECK (char_length(person_id) BETWEEN 1 AND 50),
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    sort_key     text COLLATE "C" NOT NULL,
    email        text NOT NULL DEFAULT '',
    phone        text NOT NULL DEFAULT '',
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('CUSTOMER', 'STAFF')),
    subject      text COLLATE "C",
    active       boolean NOT NULL DEFAULT true,
    revision     bigint NOT NULL DEFAULT 1,
    create_time  timestamptz NOT NULL DEFAULT now(),
    update_time  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT people_pkey PRIMARY KEY (tenant_id, person_id),
    CONSTRAINT people_subject_key UNIQUE (tenant_id, subject)
);
CREATE INDEX people_sort_key_idx ON people (tenant_id, sort_key, person_id);
CREATE INDEX people_create_time_idx ON people (tenant_id, create_time, person_id);
CREATE INDEX people_kind_idx ON people (tenant_id, kind, sort_key, person_id);

COMMENT ON TABLE people IS 'The people a tenant knows: those of its customers, and its own staff.';
COMMENT ON COLUMN people.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN people.person_id IS 'Chosen by the caller or generated (pers_…); never changed.';
COMMENT ON COLUMN people.display_name IS 'Name for people.';
COMMENT ON COLUMN people.sort_key IS 'display_name without case and accents: the order of lists.';
COMMENT ON COLUMN people.email IS 'Email address; empty for none.';
COMMENT ON COLUMN people.phone IS 'Phone number as people write it; empty for none.';
COMMENT ON COLUMN people.kind IS 'CUSTOMER or STAFF.';
COMMENT ON COLUMN people.subject IS 'The caller identity that is this person; null for none.';
COMMENT ON COLUMN people.active IS 'Whether the person is still there; an inactive one can be given nothing new.';
COMMENT ON COLUMN people.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN people.create_time IS 'When the row was created.';
COMMENT ON COLUMN people.update_time IS 'When the row was last changed.';

CREATE TABLE person_words (
    tenant_id text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    person_id text COLLATE "C" NOT NULL,
    word      text COLLATE "C" NOT NULL,
    CONSTRAINT person_words_pkey PRIMARY KEY (tenant_id, person_id, word),
    CONSTRAINT person_words_person_fkey FOREIGN KEY (tenant_id, person_id) REFERENCES people ON DELETE CASCADE
);
CREATE INDEX person_words_word_idx ON person_words (tenant_id, word, person_id);

COMMENT ON TABLE person_words IS 'The words a person is found by, without case and accents.';
COMMENT ON COLUMN person_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN person_words.person_id IS 'The person found.';
COMMENT ON COLUMN person_words.word IS 'A normalised word of their id, name or email.';

CREATE TABLE organization_members (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    organization_id text COLLATE "C" NOT NULL,
    person_id       text COLLATE "C" NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organization_members_pkey PRIMARY KEY (tenant_id, organization_id, person_id),
    CONSTRAINT organization_members_organization_fkey FOREIGN KEY (tenant_id, organization_id)
        REFERENCES organizations ON DELETE CASCADE,
    CONSTRAINT organization_members_person_fkey FOREIGN KEY (tenant_id, person_id) REFERENCES people ON DELETE CASCADE
);
CREATE INDEX organization_members_person_idx ON organization_members (tenant_id, person_id, organization_id);

COMMENT ON TABLE organization_members IS 'Which people belong to which organizations.';
COMMENT ON COLUMN organization_members.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN organization_members.organization_id IS 'The organization.';
COMMENT ON COLUMN organization_members.person_id IS 'A person who belongs to it.';
COMMENT ON COLUMN organization_members.create_time IS 'Since when.';

ALTER TABLE people ENABLE ROW LEVEL SECURITY;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON people USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON people TO customer_accounts_app;

ALTER TABLE person_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE person_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON person_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON person_words TO customer_accounts_app;

ALTER TABLE organization_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE organization_members FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organization_members USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_members TO customer_accounts_app;

ALTER TABLE accounts ADD COLUMN account_manager_id text COLLATE "C";
ALTER TABLE accounts ADD CONSTRAINT accounts_account_manager_fkey FOREIGN KEY (tenant_id, account_manager_id) REFERENCES people;
CREATE INDEX accounts_account_manager_idx ON accounts (tenant_id, account_manager_id, sort_key, account_id);
COMMENT ON COLUMN accounts.account_manager_id IS 'The person of the tenant''s staff who looks after the account; null for none.';

-- The forest of organizations that accounts are bound to.

CREATE TABLE organizations (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    organization_id text COLLATE "C" NOT NULL CHECK (char_length(organization_id) BETWEEN 1 AND 50),
    display_name    text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    sort_key        text COLLATE "C" NOT NULL,
    parent_id       text COLLATE "C",
    revision        bigint NOT NULL DEFAULT 1,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organizations_pkey PRIMARY KEY (tenant_id, organization_id),
    CONSTRAINT organizations_parent_fkey FOREIGN KEY (tenant_id, parent_id) REFERENCES organizations
);
CREATE INDEX organizations_sort_key_idx ON organizations (tenant_id, sort_key, organization_id);
CREATE INDEX organizations_create_time_idx ON organizations (tenant_id, create_time, organization_id);
CREATE INDEX organizations_parent_idx ON organizations (tenant_id, parent_id, sort_key, organization_id);

COMMENT ON TABLE organizations IS 'Business units of customers, as a forest: the hierarchy that accounts are bound to and reach follows.';
COMMENT ON COLUMN organizations.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN organizations.organization_id IS 'Chosen by the caller or generated (org_…); never changed.';
COMMENT ON COLUMN organizations.display_name IS 'Name for people.';
COMMENT ON COLUMN organizations.sort_key IS 'display_name without case and accents: the order of lists.';
COMMENT ON COLUMN organizations.parent_id IS 'The organization above; null at the top of a tree.';
COMMENT ON COLUMN organizations.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN organizations.create_time IS 'When the row was created.';
COMMENT ON COLUMN organizations.update_time IS 'When the row was last changed.';

CREATE TABLE organization_ancestors (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    organization_id text COLLATE "C" NOT NULL,
    ancestor_id     text COLLATE "C" NOT NULL,
    distance        integer NOT NULL CHECK (distance BETWEEN 0 AND 15),
    CONSTRAINT organization_ancestors_pkey PRIMARY KEY (tenant_id, organization_id, ancestor_id),
    CONSTRAINT organization_ancestors_organization_fkey FOREIGN KEY (tenant_id, organization_id)
        REFERENCES organizations ON DELETE CASCADE,
    CONSTRAINT organization_ancestors_ancestor_fkey FOREIGN KEY (tenant_id, ancestor_id)
        REFERENCES organizations ON DELETE CASCADE
);
CREATE INDEX organization_ancestors_ancestor_idx ON organization_ancestors (tenant_id, ancestor_id, organization_id);

COMMENT ON TABLE organization_ancestors IS 'For each organization itself and every organization above it, so that a subtree is one index range.';
COMMENT ON COLUMN organization_ancestors.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN organization_ancestors.organization_id IS 'The organization below.';
COMMENT ON COLUMN organization_ancestors.ancestor_id IS 'The organization above, or the organization itself.';
COMMENT ON COLUMN organization_ancestors.distance IS 'Levels between the two: 0 for the organization itself. A tree is at most 16 levels deep.';

CREATE TABLE organization_words (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    organization_id text COLLATE "C" NOT NULL,
    word            text COLLATE "C" NOT NULL,
    CONSTRAINT organization_words_pkey PRIMARY KEY (tenant_id, organization_id, word),
    CONSTRAINT organization_words_organization_fkey FOREIGN KEY (tenant_id, organization_id)
        REFERENCES organizations ON DELETE CASCADE
);
CREATE INDEX organization_words_word_idx ON organization_words (tenant_id, word, organization_id);

COMMENT ON TABLE organization_words IS 'The words an organization is found by, without case and accents.';
COMMENT ON COLUMN organization_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN organization_words.organization_id IS 'The organization found.';
COMMENT ON COLUMN organization_words.word IS 'A normalised word of its id or name.';

ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organizations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON organizations TO customer_accounts_app;

ALTER TABLE organization_ancestors ENABLE ROW LEVEL SECURITY;
ALTER TABLE organization_ancestors FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organization_ancestors USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_ancestors TO customer_accounts_app;

ALTER TABLE organization_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE organization_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organization_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_words TO customer_accounts_app;

-- Accounts: the customer's business entity.

CREATE TABLE accounts (
    tenant_id        text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    account_id       text COLLATE "C" NOT NULL CHECK (char_length(account_id) BETWEEN 1 AND 50),
    display_name     text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    sort_key         text COLLATE "C" NOT NULL,
    description      text NOT NULL DEFAULT '',
    organization_id  text COLLATE "C" NOT NULL,
    account_type_id  text COLLATE "C",
    status           text COLLATE "C" NOT NULL CHECK (status IN ('ACTIVE', 'SUSPENDED', 'INACTIVE')),
    status_reason    text NOT NULL DEFAULT '',
    primary_contact  jsonb,
    billing_address  jsonb,
    shipping_address jsonb,
    postal_address   jsonb,
    official_address jsonb,
    billing_details  text NOT NULL DEFAULT '',
    preferences      jsonb,
    is_primary       boolean NOT NULL DEFAULT false,
    comment          text NOT NULL DEFAULT '',
    metadata         jsonb NOT NULL DEFAULT '{}',
    revision         bigint NOT NULL DEFAULT 1,
    create_time      timestamptz NOT NULL DEFAULT now(),
    update_time      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT accounts_pkey PRIMARY KEY (tenant_id, account_id),
    CONSTRAINT accounts_organization_fkey FOREIGN KEY (tenant_id, organization_id) REFERENCES organizations,
    CONSTRAINT accounts_account_type_fkey FOREIGN KEY (tenant_id, account_type_id) REFERENCES account_types
);
CREATE UNIQUE INDEX accounts_primary_at_most_one ON accounts (tenant_id, organization_id) WHERE is_primary;
CREATE INDEX accounts_sort_key_idx ON accounts (tenant_id, sort_key, account_id);
CREATE INDEX accounts_create_time_idx ON accounts (tenant_id, create_time, account_id);
CREATE INDEX accounts_organization_idx ON accounts (tenant_id, organization_id, sort_key, account_id);
CREATE INDEX accounts_account_type_idx ON accounts (tenant_id, account_type_id, sort_key, account_id);
CREATE INDEX accounts_status_idx ON accounts (tenant_id, status, sort_key, account_id);

COMMENT ON TABLE accounts IS 'A customer''s business entity, bound to an organization.';
COMMENT ON COLUMN accounts.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN accounts.account_id IS 'Chosen by the caller or generated (acct_…); never changed.';
COMMENT ON COLUMN accounts.display_name IS 'Name for people.';
COMMENT ON COLUMN accounts.sort_key IS 'display_name without case and accents: the order of lists.';
COMMENT ON COLUMN accounts.description IS 'What the account is about; empty for none.';
COMMENT ON COLUMN accounts.organization_id IS 'The organization the account belongs to.';
COMMENT ON COLUMN accounts.account_type_id IS 'The type of the account; null for Unassigned.';
COMMENT ON COLUMN accounts.status IS 'ACTIVE, SUSPENDED or INACTIVE.';
COMMENT ON COLUMN accounts.status_reason IS 'Why the account has its status; empty for none.';
COMMENT ON COLUMN accounts.primary_contact IS 'Name, email and phone of the primary contact; null for none.';
COMMENT ON COLUMN accounts.billing_address IS 'Where invoices go: line1, line2, city, state, postal_code, country; null for none.';
COMMENT ON COLUMN accounts.shipping_address IS 'Where deliveries go; null for none.';
COMMENT ON COLUMN accounts.postal_address IS 'Where letters go; null for none.';
COMMENT ON COLUMN accounts.official_address IS 'The registered seat; null for none.';
COMMENT ON COLUMN accounts.billing_details IS 'Free text or JSON text for billing; empty for none.';
COMMENT ON COLUMN accounts.preferences IS 'JSON object of the customer''s preferences; null for none.';
COMMENT ON COLUMN accounts.is_primary IS 'Whether this is its organization''s primary account; at most one is.';
COMMENT ON COLUMN accounts.comment IS 'Internal remark; empty for none.';
COMMENT ON COLUMN accounts.metadata IS 'String map for callers'' own use.';
COMMENT ON COLUMN accounts.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN accounts.create_time IS 'When the row was created.';
COMMENT ON COLUMN accounts.update_time IS 'When the row was last changed.';

CREATE TABLE account_words (
    tenant_id  text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    account_id text COLLATE "C" NOT NULL,
    word       text COLLATE "C" NOT NULL,
    CONSTRAINT account_words_pkey PRIMARY KEY (tenant_id, account_id, word),
    CONSTRAINT account_words_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts ON DELETE CASCADE
);
CREATE INDEX account_words_word_idx ON account_words (tenant_id, word, account_id);

COMMENT ON TABLE account_words IS 'The words an account is found by, without case and accents.';
COMMENT ON COLUMN account_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN account_words.account_id IS 'The account found.';
COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name, or its primary contact''s name or email.';

ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON accounts USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO customer_accounts_app;

ALTER TABLE account_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE account_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON account_words TO customer_accounts_app;

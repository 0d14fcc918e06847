-- The account types each tenant shapes.

CREATE TABLE account_types (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    account_type_id text COLLATE "C" NOT NULL CHECK (char_length(account_type_id) BETWEEN 1 AND 50),
    display_name    text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 100),
    name_key        text COLLATE "C" NOT NULL,
    description     text NOT NULL DEFAULT '',
    is_default      boolean NOT NULL DEFAULT false,
    active          boolean NOT NULL DEFAULT true,
    revision        bigint NOT NULL DEFAULT 1,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_types_pkey PRIMARY KEY (tenant_id, account_type_id),
    CONSTRAINT account_types_name_key UNIQUE (tenant_id, name_key),
    CONSTRAINT account_types_default_active CHECK (active OR NOT is_default)
);
CREATE UNIQUE INDEX account_types_default_at_most_one ON account_types (tenant_id) WHERE is_default;
CREATE INDEX account_types_create_time_idx ON account_types (tenant_id, create_time, account_type_id);

COMMENT ON TABLE account_types IS 'Kinds of account that a tenant distinguishes, such as Enterprise or Trial.';
COMMENT ON COLUMN account_types.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN account_types.account_type_id IS 'Chosen by the caller or generated (atyp_…); never changed.';
COMMENT ON COLUMN account_types.display_name IS 'Name for people; unique in the tenant without regard to case.';
COMMENT ON COLUMN account_types.name_key IS 'display_name in lower case: what is unique, and the order of lists.';
COMMENT ON COLUMN account_types.description IS 'What the type means; empty for none.';
COMMENT ON COLUMN account_types.is_default IS 'Whether a new account without a type gets this one; at most one in a tenant.';
COMMENT ON COLUMN account_types.active IS 'Whether the type can be assigned; a deactivated one is hidden from lists.';
COMMENT ON COLUMN account_types.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN account_types.create_time IS 'When the row was created.';
COMMENT ON COLUMN account_types.update_time IS 'When the row was last changed.';

ALTER TABLE account_types ENABLE ROW LEVEL SECURITY;
ALTER TABLE account_types FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account_types USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE ON account_types TO customer_accounts_app;

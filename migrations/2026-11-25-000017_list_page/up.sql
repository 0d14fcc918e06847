-- The list page: tax ids of accounts, metadata of organizations, the entries of both as words, and the orders and filters of
-- lists.

ALTER TABLE accounts ADD COLUMN tax_id text NOT NULL DEFAULT '' CHECK (char_length(tax_id) <= 50);
COMMENT ON COLUMN accounts.tax_id IS 'Number under which tax authorities know the account; empty for none.';
ALTER TABLE organizations ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN organizations.metadata IS 'String map for callers'' own use.';

CREATE INDEX accounts_update_time_idx ON accounts (tenant_id, update_time, account_id);
-- PostgreSQL takes an equality with a boolean for a constant of the order, and IS NULL for none: that takes a partial index.
CREATE INDEX accounts_is_primary_idx ON accounts (tenant_id, is_primary, sort_key, account_id);
CREATE INDEX accounts_without_type_idx ON accounts (tenant_id, sort_key, account_id) WHERE account_type_id IS NULL;
CREATE INDEX organizations_top_idx ON organizations (tenant_id, sort_key, organization_id) WHERE parent_id IS NULL;

COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name, tax id, or its inline primary contact''s name or email; behind @, the id of the person who is its primary contact; behind U+0001, an entry of its metadata as key=value.';
COMMENT ON COLUMN organization_words.word IS 'A normalised word of its id or name; behind U+0001, an entry of its metadata as key=value.';

-- For this statement the owner sees the rows of all tenants.
ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words NO FORCE ROW LEVEL SECURITY;
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant_id, account_id, E'\x01' || entry.key || '=' || entry.value
    FROM accounts CROSS JOIN LATERAL jsonb_each_text(metadata) AS entry
    ON CONFLICT DO NOTHING;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words FORCE ROW LEVEL SECURITY;

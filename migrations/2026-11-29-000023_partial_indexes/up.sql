-- Most accounts have no account manager, and nobody as a contact who is a person. An index without
-- their NULLs is smaller, and a new account does not write it.
--
-- Each statement stops writers of accounts for as long as PostgreSQL reads the table once. CREATE
-- INDEX CONCURRENTLY does not run in a transaction, and a migration is one.

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX accounts_account_manager_idx;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX accounts_account_manager_idx ON accounts (tenant_id, account_manager_id, sort_key, account_id) WHERE account_manager_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX accounts_primary_contact_idx;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX accounts_primary_contact_idx ON accounts (tenant_id, primary_contact_id) WHERE primary_contact_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX accounts_billing_contact_idx;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX accounts_billing_contact_idx ON accounts (tenant_id, billing_contact_id) WHERE billing_contact_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX accounts_cc_billing_contact_idx;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX accounts_cc_billing_contact_idx ON accounts (tenant_id, cc_billing_contact_id) WHERE cc_billing_contact_id IS NOT NULL;

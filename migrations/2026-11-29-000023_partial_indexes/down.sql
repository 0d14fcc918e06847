DROP INDEX accounts_account_manager_idx;
CREATE INDEX accounts_account_manager_idx ON accounts (tenant_id, account_manager_id, sort_key, account_id);
DROP INDEX accounts_primary_contact_idx;
CREATE INDEX accounts_primary_contact_idx ON accounts (tenant_id, primary_contact_id);
DROP INDEX accounts_billing_contact_idx;
CREATE INDEX accounts_billing_contact_idx ON accounts (tenant_id, billing_contact_id);
DROP INDEX accounts_cc_billing_contact_idx;
CREATE INDEX accounts_cc_billing_contact_idx ON accounts (tenant_id, cc_billing_contact_id);

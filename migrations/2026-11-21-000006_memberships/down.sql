ALTER TABLE people DROP COLUMN purchasing_account_id;
ALTER TABLE accounts DROP COLUMN primary_contact_id, DROP COLUMN billing_contact_id, DROP COLUMN cc_billing_contact_id;
DROP TABLE account_organizations;
DROP TABLE account_users;

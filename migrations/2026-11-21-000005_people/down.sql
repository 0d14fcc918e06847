ALTER TABLE accounts DROP COLUMN account_manager_id;
DROP TABLE organization_members;
DROP TABLE person_words;
DROP TABLE people;
DROP TABLE tenants;

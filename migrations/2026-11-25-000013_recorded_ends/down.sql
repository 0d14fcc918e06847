COMMENT ON TABLE account_words IS 'The words an account is found by, without case and accents.';
COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name, or its primary contact''s name or email.';

ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words NO FORCE ROW LEVEL SECURITY;
ALTER TABLE person_words NO FORCE ROW LEVEL SECURITY;
DELETE FROM account_words WHERE word LIKE '@%';
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT a.tenant_id, a.account_id, p.word FROM accounts AS a
        JOIN person_words AS p ON p.tenant_id = a.tenant_id AND p.person_id = a.primary_contact_id
    ON CONFLICT DO NOTHING;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words FORCE ROW LEVEL SECURITY;
ALTER TABLE person_words FORCE ROW LEVEL SECURITY;

ALTER TABLE people
    DROP CONSTRAINT people_purchasing_account_fkey,
    ADD CONSTRAINT people_purchasing_account_fkey FOREIGN KEY (tenant_id, purchasing_account_id)
        REFERENCES accounts ON DELETE SET NULL (purchasing_account_id);
ALTER TABLE module_activations
    DROP CONSTRAINT module_activations_organization_fkey,
    ADD CONSTRAINT module_activations_organization_fkey FOREIGN KEY (tenant_id, organization_id)
        REFERENCES organizations ON DELETE CASCADE;
ALTER TABLE organization_members
    DROP CONSTRAINT organization_members_organization_fkey,
    DROP CONSTRAINT organization_members_person_fkey,
    ADD CONSTRAINT organization_members_organization_fkey FOREIGN KEY (tenant_id, organization_id)
        REFERENCES organizations ON DELETE CASCADE,
    ADD CONSTRAINT organization_members_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
        REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE account_organizations
    DROP CONSTRAINT account_organizations_account_fkey,
    ADD CONSTRAINT account_organizations_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts ON DELETE CASCADE;
ALTER TABLE account_users
    DROP CONSTRAINT account_users_account_fkey,
    DROP CONSTRAINT account_users_person_fkey,
    ADD CONSTRAINT account_users_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts ON DELETE CASCADE,
    ADD CONSTRAINT account_users_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
        REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE ON DELETE CASCADE;

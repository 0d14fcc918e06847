-- What belongs to a row that is deleted is deleted and recorded by the service before. A foreign key that did it instead would do
-- it without a trace, so these no longer do: whoever forgets gets an error. The rows themselves
-- need no look: the constraints have held until now.

ALTER TABLE account_users
    DROP CONSTRAINT account_users_account_fkey,
    DROP CONSTRAINT account_users_person_fkey,
    ADD CONSTRAINT account_users_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts,
    -- A change of name still goes along with the memberships: that is a copy of the person's row, and no change of its own.
    ADD CONSTRAINT account_users_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
        REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE;
ALTER TABLE account_organizations
    DROP CONSTRAINT account_organizations_account_fkey,
    ADD CONSTRAINT account_organizations_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts;
ALTER TABLE organization_members
    DROP CONSTRAINT organization_members_organization_fkey,
    DROP CONSTRAINT organization_members_person_fkey,
    ADD CONSTRAINT organization_members_organization_fkey FOREIGN KEY (tenant_id, organization_id) REFERENCES organizations,
    ADD CONSTRAINT organization_members_person_fkey FOREIGN KEY (tenant_id, person_id, sort_key)
        REFERENCES people (tenant_id, person_id, sort_key) ON UPDATE CASCADE;
ALTER TABLE module_activations
    DROP CONSTRAINT module_activations_organization_fkey,
    ADD CONSTRAINT module_activations_organization_fkey FOREIGN KEY (tenant_id, organization_id) REFERENCES organizations;
ALTER TABLE people
    DROP CONSTRAINT people_purchasing_account_fkey,
    ADD CONSTRAINT people_purchasing_account_fkey FOREIGN KEY (tenant_id, purchasing_account_id) REFERENCES accounts;

-- An account whose primary contact is a person had copies of the person's words. It gets a reference to the person instead. What
-- goes are its words that neither its id nor its name has: an account with such a contact has no other words of its own. A word
-- reaches to the next blank and is cut after 60 characters; sort_key is the name as words have it. The words of an id that is not
-- ASCII cannot be told here, so of such an account only words that the person has today go.
-- For these statements the owner sees the rows of all tenants.
ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words NO FORCE ROW LEVEL SECURITY;
ALTER TABLE person_words NO FORCE ROW LEVEL SECURITY;
DELETE FROM account_words AS w USING accounts AS a,
        LATERAL (SELECT translate(a.sort_key, U&'\0085\1680\2028\2029', '    ') || ' ' || lower(a.account_id) || ' ' AS own) AS texts
    WHERE a.tenant_id = w.tenant_id AND a.account_id = w.account_id AND a.primary_contact_id IS NOT NULL
        AND position(w.word || ' ' IN own) = 0
        AND NOT (char_length(w.word) = 60 AND position(w.word IN own) > 0)
        AND (a.account_id ~ '^[ -~]+$' OR EXISTS (SELECT FROM person_words AS p
            WHERE p.tenant_id = a.tenant_id AND p.person_id = a.primary_contact_id AND p.word = w.word));
INSERT INTO account_words (tenant_id, account_id, word)
    SELECT tenant_id, account_id, '@' || primary_contact_id FROM accounts WHERE primary_contact_id IS NOT NULL;
ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
ALTER TABLE account_words FORCE ROW LEVEL SECURITY;
ALTER TABLE person_words FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE account_words IS 'The words an account is found by, without case and accents, and a reference to the person who is its primary contact, whose own words find it too.';
COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name or inline primary contact; or the id of the person who is its primary contact behind an @, which no word begins with.';

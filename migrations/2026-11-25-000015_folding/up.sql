-- Words and sort keys are made by the service, which has learned more of Unicode. Those of the rows that there are have to be made
-- anew, and so have those that replicas of the version before still write: `customer-accounts migrate` does both, after this.

-- Whoever writes sort key and words of a row says so here. What is left as it is, as by replicas of the version before, no longer
-- fits the revision.
ALTER TABLE organizations ADD COLUMN folded bigint NOT NULL DEFAULT 0;
ALTER TABLE people ADD COLUMN folded bigint NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN folded bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN organizations.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';
COMMENT ON COLUMN people.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';
COMMENT ON COLUMN accounts.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';
COMMENT ON COLUMN organizations.sort_key IS 'display_name without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN people.sort_key IS 'display_name without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN accounts.sort_key IS 'display_name without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN account_types.name_key IS 'display_name without regard to case, width and characters that do not show (text::caseless): what is unique, and the order of lists.';
COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name or inline primary contact; or the id of the person who is its primary contact behind an @. A word that begins with an @ has a blank before it.';

-- Whoever renews rows is the owner of the tables, and finds out here which tenants there are: no row of any other table is without
-- one of these in its tenant.
CREATE POLICY owner ON organizations FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY owner ON people FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY owner ON account_types FOR SELECT TO CURRENT_USER USING (true);

CREATE TABLE renewals (
    folding       bigint NOT NULL,
    complete_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT renewals_pkey PRIMARY KEY (folding)
);
COMMENT ON TABLE renewals IS 'Which versions of the folding all rows of all tenants have been renewed for, once: a service waits for that before it serves.';
COMMENT ON COLUMN renewals.folding IS 'The version of the folding.';
COMMENT ON COLUMN renewals.complete_time IS 'When the renewal was last complete.';
GRANT SELECT ON renewals TO customer_accounts_app;
-- In a new database there is nothing to renew.
INSERT INTO renewals (folding) SELECT 2 WHERE NOT EXISTS (SELECT FROM organizations) AND NOT EXISTS (SELECT FROM people)
    AND NOT EXISTS (SELECT FROM account_types);

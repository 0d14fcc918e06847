-- Opportunities of accounts, and the words that they are found by.

CREATE TABLE opportunities (
    tenant_id           text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    opportunity_id      text COLLATE "C" NOT NULL CHECK (char_length(opportunity_id) BETWEEN 1 AND 50),
    account_id          text COLLATE "C" NOT NULL,
    incarnation         text COLLATE "C" NOT NULL,
    display_name        text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    sort_key            text COLLATE "C" NOT NULL,
    stage               text NOT NULL CHECK (char_length(stage) <= 100),
    state               text COLLATE "C" NOT NULL CHECK (state IN ('OPEN', 'WON', 'LOST')),
    amount              numeric(22,9),
    currency_code       text COLLATE "C",
    probability         double precision CHECK (probability BETWEEN 0 AND 100),
    expected_close_date date,
    close_date          date CHECK (close_date IS NULL OR state <> 'OPEN'),
    uri                 text NOT NULL CHECK (char_length(uri) <= 2000),
    contract_id         text COLLATE "C",
    owner_id            text COLLATE "C",
    source_time         timestamptz,
    metadata            jsonb NOT NULL,
    revision            bigint NOT NULL DEFAULT 1,
    create_time         timestamptz NOT NULL DEFAULT now(),
    update_time         timestamptz NOT NULL DEFAULT now(),
    folded              bigint NOT NULL DEFAULT 0,
    CONSTRAINT opportunities_pkey PRIMARY KEY (tenant_id, opportunity_id),
    CONSTRAINT opportunities_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts,
    CONSTRAINT opportunities_contract_fkey FOREIGN KEY (tenant_id, contract_id) REFERENCES contracts,
    CONSTRAINT opportunities_owner_fkey FOREIGN KEY (tenant_id, owner_id) REFERENCES people,
    CONSTRAINT opportunities_amount_check CHECK ((amount IS NULL) = (currency_code IS NULL))
);
CREATE INDEX opportunities_sort_key_idx ON opportunities (tenant_id, sort_key, opportunity_id);
CREATE INDEX opportunities_create_time_idx ON opportunities (tenant_id, create_time, opportunity_id);
CREATE INDEX opportunities_account_idx ON opportunities (tenant_id, account_id, sort_key, opportunity_id);
CREATE INDEX opportunities_state_idx ON opportunities (tenant_id, state, sort_key, opportunity_id);
CREATE INDEX opportunities_expected_close_idx ON opportunities (tenant_id, expected_close_date, opportunity_id);
CREATE INDEX opportunities_contract_idx ON opportunities (tenant_id, contract_id, sort_key, opportunity_id);
CREATE INDEX opportunities_owner_idx ON opportunities (tenant_id, owner_id);

COMMENT ON TABLE opportunities IS 'What a CRM expects to sell to an account.';
COMMENT ON COLUMN opportunities.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN opportunities.opportunity_id IS 'Chosen by the caller; never changed.';
COMMENT ON COLUMN opportunities.account_id IS 'The account that the opportunity is for; never changed.';
COMMENT ON COLUMN opportunities.incarnation IS 'The incarnation of the account, for the activity trail; never changed.';
COMMENT ON COLUMN opportunities.display_name IS 'Name for people.';
COMMENT ON COLUMN opportunities.sort_key IS 'display_name without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN opportunities.stage IS 'The stage in the words of the CRM; empty for none.';
COMMENT ON COLUMN opportunities.state IS 'OPEN, WON or LOST.';
COMMENT ON COLUMN opportunities.amount IS 'What it is worth, in units of the currency; null for none.';
COMMENT ON COLUMN opportunities.currency_code IS 'ISO 4217 code of the currency of amount; null for none.';
COMMENT ON COLUMN opportunities.probability IS 'How likely it is to be won, in percent; null for none.';
COMMENT ON COLUMN opportunities.expected_close_date IS 'The day by which the decision is expected; null for none.';
COMMENT ON COLUMN opportunities.close_date IS 'The day of the decision; null for none.';
COMMENT ON COLUMN opportunities.uri IS 'Where people find it; empty for none.';
COMMENT ON COLUMN opportunities.contract_id IS 'The contract that came of it, of the same account; null for none.';
COMMENT ON COLUMN opportunities.owner_id IS 'The person who looks after it; null for none.';
COMMENT ON COLUMN opportunities.source_time IS 'When the CRM last changed it: an older message changes nothing. Null for none.';
COMMENT ON COLUMN opportunities.metadata IS 'String map for callers'' own use.';
COMMENT ON COLUMN opportunities.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN opportunities.create_time IS 'When the row was created.';
COMMENT ON COLUMN opportunities.update_time IS 'When the row was last changed.';
COMMENT ON COLUMN opportunities.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';

ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY;
ALTER TABLE opportunities FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON opportunities
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON opportunities TO customer_accounts_app;

CREATE TABLE opportunity_words (
    tenant_id text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    opportunity_id text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    CONSTRAINT opportunity_words_pkey PRIMARY KEY (tenant_id, opportunity_id, word),
    CONSTRAINT opportunity_words_opportunity_fkey FOREIGN KEY (tenant_id, opportunity_id) REFERENCES opportunities ON DELETE CASCADE
);
CREATE INDEX opportunity_words_word_idx ON opportunity_words (tenant_id, word, opportunity_id);

COMMENT ON TABLE opportunity_words IS 'The words that searches find opportunities by, without case and accents.';
COMMENT ON COLUMN opportunity_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN opportunity_words.opportunity_id IS 'The opportunity found.';
COMMENT ON COLUMN opportunity_words.word IS 'A normalised word of its id, name or stage.';

ALTER TABLE opportunity_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE opportunity_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON opportunity_words
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON opportunity_words TO customer_accounts_app;

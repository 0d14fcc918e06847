-- Portfolios of accounts, their items, and the words that they are found by.

CREATE TABLE portfolios (
    tenant_id    text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    portfolio_id text COLLATE "C" NOT NULL CHECK (char_length(portfolio_id) BETWEEN 1 AND 50),
    account_id   text COLLATE "C" NOT NULL,
    incarnation  text COLLATE "C" NOT NULL,
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    sort_key     text COLLATE "C" NOT NULL,
    description  text NOT NULL CHECK (char_length(description) <= 2000),
    item_count   integer NOT NULL CHECK (item_count BETWEEN 0 AND 200),
    revision     bigint NOT NULL DEFAULT 1,
    create_time  timestamptz NOT NULL DEFAULT now(),
    update_time  timestamptz NOT NULL DEFAULT now(),
    folded       bigint NOT NULL DEFAULT 0,
    CONSTRAINT portfolios_pkey PRIMARY KEY (tenant_id, portfolio_id),
    CONSTRAINT portfolios_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts
);
CREATE INDEX portfolios_sort_key_idx ON portfolios (tenant_id, sort_key, portfolio_id);
CREATE INDEX portfolios_create_time_idx ON portfolios (tenant_id, create_time, portfolio_id);
CREATE INDEX portfolios_account_idx ON portfolios (tenant_id, account_id, sort_key, portfolio_id);

COMMENT ON TABLE portfolios IS 'The services that an account can have, has or has had.';
COMMENT ON COLUMN portfolios.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN portfolios.portfolio_id IS 'Chosen by the caller or generated (port_…); never changed.';
COMMENT ON COLUMN portfolios.account_id IS 'The account that the portfolio belongs to; never changed.';
COMMENT ON COLUMN portfolios.incarnation IS 'The incarnation of the account, for the activity trail; never changed.';
COMMENT ON COLUMN portfolios.display_name IS 'Name for people.';
COMMENT ON COLUMN portfolios.sort_key IS 'display_name without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN portfolios.description IS 'What the portfolio is for; empty for none.';
COMMENT ON COLUMN portfolios.item_count IS 'The number of rows of portfolio_items.';
COMMENT ON COLUMN portfolios.revision IS 'Counts the changes of the row and its items; part of the etag.';
COMMENT ON COLUMN portfolios.create_time IS 'When the row was created.';
COMMENT ON COLUMN portfolios.update_time IS 'When the row or its items were last changed.';
COMMENT ON COLUMN portfolios.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';

ALTER TABLE portfolios ENABLE ROW LEVEL SECURITY;
ALTER TABLE portfolios FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON portfolios
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON portfolios TO customer_accounts_app;

CREATE TABLE portfolio_items (
    tenant_id    text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    portfolio_id text COLLATE "C" NOT NULL,
    code         text COLLATE "C" NOT NULL CHECK (char_length(code) BETWEEN 1 AND 50),
    code_key     text COLLATE "C" NOT NULL,
    ordinal      integer NOT NULL,
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    description  text NOT NULL CHECK (char_length(description) <= 1000),
    state        text COLLATE "C" NOT NULL CHECK (state IN ('PLANNED', 'ACTIVE', 'RETIRED')),
    CONSTRAINT portfolio_items_pkey PRIMARY KEY (tenant_id, portfolio_id, code),
    CONSTRAINT portfolio_items_portfolio_fkey FOREIGN KEY (tenant_id, portfolio_id) REFERENCES portfolios
);
CREATE INDEX portfolio_items_code_idx ON portfolio_items (tenant_id, code_key, state, portfolio_id);
CREATE INDEX portfolio_items_state_idx ON portfolio_items (tenant_id, state, portfolio_id);

COMMENT ON TABLE portfolio_items IS 'The services of portfolios.';
COMMENT ON COLUMN portfolio_items.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN portfolio_items.portfolio_id IS 'The portfolio that the item is in.';
COMMENT ON COLUMN portfolio_items.code IS 'The caller''s code of the service.';
COMMENT ON COLUMN portfolio_items.code_key IS 'code without regard to case, width and characters that do not show (text::caseless): lists find portfolios by it.';
COMMENT ON COLUMN portfolio_items.ordinal IS 'The position in the portfolio, from 0.';
COMMENT ON COLUMN portfolio_items.display_name IS 'Name for people.';
COMMENT ON COLUMN portfolio_items.description IS 'What the service is; empty for none.';
COMMENT ON COLUMN portfolio_items.state IS 'PLANNED, ACTIVE or RETIRED.';

ALTER TABLE portfolio_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE portfolio_items FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON portfolio_items
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON portfolio_items TO customer_accounts_app;

CREATE TABLE portfolio_words (
    tenant_id text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    portfolio_id text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    CONSTRAINT portfolio_words_pkey PRIMARY KEY (tenant_id, portfolio_id, word),
    CONSTRAINT portfolio_words_portfolio_fkey FOREIGN KEY (tenant_id, portfolio_id) REFERENCES portfolios ON DELETE CASCADE
);
CREATE INDEX portfolio_words_word_idx ON portfolio_words (tenant_id, word, portfolio_id);

COMMENT ON TABLE portfolio_words IS 'The words that searches find portfolios by, without case and accents.';
COMMENT ON COLUMN portfolio_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN portfolio_words.portfolio_id IS 'The portfolio found.';
COMMENT ON COLUMN portfolio_words.word IS 'A normalised word of its id or name, or of the code or name of an item.';

ALTER TABLE portfolio_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE portfolio_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON portfolio_words
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON portfolio_words TO customer_accounts_app;

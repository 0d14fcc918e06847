-- Contracts, the words they are found by, and delivery setups under them.

CREATE TABLE contracts (
    tenant_id      text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    contract_id    text COLLATE "C" NOT NULL CHECK (char_length(contract_id) BETWEEN 1 AND 50),
    account_id     text COLLATE "C" NOT NULL,
    incarnation    text COLLATE "C" NOT NULL,
    title          text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    sort_key       text COLLATE "C" NOT NULL,
    reference      text NOT NULL CHECK (char_length(reference) <= 100),
    description    text NOT NULL,
    document_uri   text NOT NULL,
    metadata       jsonb NOT NULL,
    stage          text COLLATE "C" NOT NULL CHECK (stage IN ('DRAFT', 'IN_APPROVAL', 'APPROVED', 'TERMINATED', 'VOID')),
    start_date     date,
    end_date       date,
    renewal_months integer CHECK (renewal_months BETWEEN 1 AND 120),
    notice_days    integer NOT NULL CHECK (notice_days BETWEEN 0 AND 1000),
    value_amount   numeric(22,9) CHECK (value_amount >= 0),
    value_currency text COLLATE "C",
    cancel_time    timestamptz,
    last_date      date,
    state_reason   text NOT NULL,
    submit_time    timestamptz,
    submitter      text,
    approve_time   timestamptz,
    approver       text,
    revision       bigint NOT NULL DEFAULT 1,
    create_time    timestamptz NOT NULL DEFAULT now(),
    update_time    timestamptz NOT NULL DEFAULT now(),
    folded         bigint NOT NULL DEFAULT 0,
    CONSTRAINT contracts_pkey PRIMARY KEY (tenant_id, contract_id),
    CONSTRAINT contracts_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts,
    CONSTRAINT contracts_dates_check CHECK (end_date >= start_date),
    CONSTRAINT contracts_renewal_check CHECK (renewal_months IS NULL OR end_date IS NOT NULL),
    CONSTRAINT contracts_value_check CHECK ((value_amount IS NULL) = (value_currency IS NULL)),
    CONSTRAINT contracts_approved_check CHECK (stage <> 'APPROVED' OR start_date IS NOT NULL)
);
CREATE INDEX contracts_sort_key_idx ON contracts (tenant_id, sort_key, contract_id);
CREATE INDEX contracts_create_time_idx ON contracts (tenant_id, create_time, contract_id);
CREATE INDEX contracts_account_idx ON contracts (tenant_id, account_id, contract_id);
CREATE INDEX contracts_stage_idx ON contracts (tenant_id, stage, start_date);
CREATE INDEX contracts_last_date_idx ON contracts (tenant_id, last_date);
-- The list of deadlines reads these and sorts: a date that moves with today cannot be indexed.
CREATE INDEX contracts_renewing_idx ON contracts (tenant_id, contract_id)
    WHERE stage = 'APPROVED' AND renewal_months IS NOT NULL AND last_date IS NULL;

COMMENT ON TABLE contracts IS 'What is agreed with the customer of an account.';
COMMENT ON COLUMN contracts.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN contracts.contract_id IS 'Chosen by the caller or generated (ctr_…); never changed.';
COMMENT ON COLUMN contracts.account_id IS 'The account the contract is with; never changed.';
COMMENT ON COLUMN contracts.incarnation IS 'The incarnation of the account, for the activity trail; neither changes.';
COMMENT ON COLUMN contracts.title IS 'What the contract is called.';
COMMENT ON COLUMN contracts.sort_key IS 'title without case and accents (search::fold): the order of lists.';
COMMENT ON COLUMN contracts.reference IS 'Number on the paper; empty for none.';
COMMENT ON COLUMN contracts.description IS 'What is agreed; empty for none.';
COMMENT ON COLUMN contracts.document_uri IS 'Where the document lies; empty for none.';
COMMENT ON COLUMN contracts.metadata IS 'String map for callers'' own use.';
COMMENT ON COLUMN contracts.stage IS 'The stored stage; the state follows from it and the dates.';
COMMENT ON COLUMN contracts.start_date IS 'First day in force; null until approval sets it.';
COMMENT ON COLUMN contracts.end_date IS 'Last day of the first term; null for an open end.';
COMMENT ON COLUMN contracts.renewal_months IS 'Length of each further term; null if the contract does not renew.';
COMMENT ON COLUMN contracts.notice_days IS 'Days between the last day for a notice and the end of a term.';
COMMENT ON COLUMN contracts.value_amount IS 'What the contract is worth in all; null for none.';
COMMENT ON COLUMN contracts.value_currency IS 'ISO 4217 code of the currency of value_amount; null for none.';
COMMENT ON COLUMN contracts.cancel_time IS 'When notice was given; null for none.';
COMMENT ON COLUMN contracts.last_date IS 'Last day in force as far as it is known, by no clock; null for an open end.';
COMMENT ON COLUMN contracts.state_reason IS 'Reason given with the last reject, void, cancel or terminate; empty for none.';
COMMENT ON COLUMN contracts.submit_time IS 'When it was last submitted.';
COMMENT ON COLUMN contracts.submitter IS 'The actor who last submitted it.';
COMMENT ON COLUMN contracts.approve_time IS 'When it was approved.';
COMMENT ON COLUMN contracts.approver IS 'The actor who approved it.';
COMMENT ON COLUMN contracts.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN contracts.create_time IS 'When the row was created.';
COMMENT ON COLUMN contracts.update_time IS 'When the row was last changed.';
COMMENT ON COLUMN contracts.folded IS 'The revision times 1000 and the version of the folding by which sort_key and words were made for it. Anything else: they may have to be made anew.';

ALTER TABLE contracts ENABLE ROW LEVEL SECURITY;
ALTER TABLE contracts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON contracts
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON contracts TO customer_accounts_app;

CREATE TABLE contract_words (
    tenant_id   text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    contract_id text COLLATE "C" NOT NULL,
    word        text COLLATE "C" NOT NULL,
    CONSTRAINT contract_words_pkey PRIMARY KEY (tenant_id, contract_id, word),
    CONSTRAINT contract_words_contract_fkey FOREIGN KEY (tenant_id, contract_id) REFERENCES contracts ON DELETE CASCADE
);
CREATE INDEX contract_words_word_idx ON contract_words (tenant_id, word, contract_id);

COMMENT ON TABLE contract_words IS 'The words a contract is found by, without case and accents.';
COMMENT ON COLUMN contract_words.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN contract_words.contract_id IS 'The contract found.';
COMMENT ON COLUMN contract_words.word IS 'A normalised word of its id, title or reference.';

ALTER TABLE contract_words ENABLE ROW LEVEL SECURITY;
ALTER TABLE contract_words FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON contract_words
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON contract_words TO customer_accounts_app;

CREATE TABLE delivery_setups (
    tenant_id         text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    delivery_setup_id text COLLATE "C" NOT NULL CHECK (char_length(delivery_setup_id) BETWEEN 1 AND 50),
    contract_id       text COLLATE "C" NOT NULL,
    account_id        text COLLATE "C" NOT NULL,
    incarnation       text COLLATE "C" NOT NULL,
    project_id        text COLLATE "C" NOT NULL CHECK (char_length(project_id) BETWEEN 1 AND 100),
    delivery_model    text NOT NULL CHECK (char_length(delivery_model) BETWEEN 1 AND 50),
    description       text NOT NULL,
    state             text COLLATE "C" NOT NULL CHECK (state IN ('PLANNED', 'READY', 'ACTIVE', 'COMPLETED', 'CANCELLED')),
    state_reason      text NOT NULL,
    start_date        date,
    end_date          date,
    revision          bigint NOT NULL DEFAULT 1,
    create_time       timestamptz NOT NULL DEFAULT now(),
    update_time       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delivery_setups_pkey PRIMARY KEY (tenant_id, delivery_setup_id),
    CONSTRAINT delivery_setups_contract_fkey FOREIGN KEY (tenant_id, contract_id) REFERENCES contracts,
    CONSTRAINT delivery_setups_dates_check CHECK (end_date >= start_date)
);
CREATE UNIQUE INDEX delivery_setups_project_key ON delivery_setups (tenant_id, project_id)
    WHERE state IN ('PLANNED', 'READY', 'ACTIVE');
CREATE INDEX delivery_setups_project_idx ON delivery_setups (tenant_id, project_id, create_time, delivery_setup_id);
CREATE INDEX delivery_setups_contract_idx ON delivery_setups (tenant_id, contract_id, create_time, delivery_setup_id);
CREATE INDEX delivery_setups_account_idx ON delivery_setups (tenant_id, account_id, create_time, delivery_setup_id);
CREATE INDEX delivery_setups_create_time_idx ON delivery_setups (tenant_id, create_time, delivery_setup_id);

COMMENT ON TABLE delivery_setups IS 'How something is delivered under a contract: a project of another system. A project has at most one setup that is PLANNED, READY or ACTIVE.';
COMMENT ON COLUMN delivery_setups.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN delivery_setups.delivery_setup_id IS 'Chosen by the caller or generated (dset_…); never changed.';
COMMENT ON COLUMN delivery_setups.contract_id IS 'The contract it delivers under; never changed.';
COMMENT ON COLUMN delivery_setups.account_id IS 'The account of the contract; neither changes.';
COMMENT ON COLUMN delivery_setups.incarnation IS 'The incarnation of the account, for the activity trail; neither changes.';
COMMENT ON COLUMN delivery_setups.project_id IS 'The project in the other system.';
COMMENT ON COLUMN delivery_setups.delivery_model IS 'How it is delivered, in the tenant''s own word.';
COMMENT ON COLUMN delivery_setups.description IS 'What is delivered; empty for none.';
COMMENT ON COLUMN delivery_setups.state IS 'PLANNED, READY, ACTIVE, COMPLETED or CANCELLED.';
COMMENT ON COLUMN delivery_setups.state_reason IS 'Why the setup has its state; empty for none.';
COMMENT ON COLUMN delivery_setups.start_date IS 'First day as planned; null for none.';
COMMENT ON COLUMN delivery_setups.end_date IS 'Last day as planned; null for none.';
COMMENT ON COLUMN delivery_setups.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN delivery_setups.create_time IS 'When the row was created.';
COMMENT ON COLUMN delivery_setups.update_time IS 'When the row was last changed.';

ALTER TABLE delivery_setups ENABLE ROW LEVEL SECURITY;
ALTER TABLE delivery_setups FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON delivery_setups
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON delivery_setups TO customer_accounts_app;

COMMENT ON COLUMN tenants.time_zone IS 'IANA name of the time zone whose day is today for memberships and contracts.';

-- Subscriptions and orders of accounts. PostgreSQL 15 is needed to empty the one column of orders when a person is
-- deleted.

CREATE TABLE subscriptions (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    subscription_id text COLLATE "C" NOT NULL CHECK (char_length(subscription_id) BETWEEN 1 AND 50),
    account_id      text COLLATE "C" NOT NULL,
    incarnation     text COLLATE "C" NOT NULL,
    display_name    text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    product_code    text COLLATE "C" NOT NULL CHECK (char_length(product_code) <= 100),
    unit_amount     numeric(22,9) NOT NULL CHECK (unit_amount >= 0),
    currency_code   text COLLATE "C" NOT NULL,
    quantity        bigint NOT NULL CHECK (quantity BETWEEN 0 AND 10000000),
    interval_unit   text COLLATE "C" NOT NULL CHECK (interval_unit IN ('DAY', 'WEEK', 'MONTH', 'YEAR')),
    interval_count  integer NOT NULL CHECK (interval_count BETWEEN 1 AND 366),
    start_time      timestamptz NOT NULL,
    trial_end_time  timestamptz CHECK (trial_end_time >= start_time),
    stated_end_time timestamptz CHECK (stated_end_time >= start_time),
    discount        integer NOT NULL CHECK (discount BETWEEN 0 AND 1000000),
    paused          boolean NOT NULL,
    contract_id     text COLLATE "C",
    source_time     timestamptz,
    cancel_end_time timestamptz CHECK ((cancel_end_time IS NULL) = (cancel_time IS NULL)),
    cancel_time     timestamptz,
    cancel_reason   text NOT NULL CHECK (char_length(cancel_reason) <= 500),
    end_time        timestamptz GENERATED ALWAYS AS (LEAST(stated_end_time, cancel_end_time)) STORED,
    metadata        jsonb NOT NULL,
    revision        bigint NOT NULL DEFAULT 1,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_pkey PRIMARY KEY (tenant_id, subscription_id),
    CONSTRAINT subscriptions_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts,
    CONSTRAINT subscriptions_contract_fkey FOREIGN KEY (tenant_id, contract_id) REFERENCES contracts
);
CREATE INDEX subscriptions_create_time_idx ON subscriptions (tenant_id, create_time, subscription_id);
CREATE INDEX subscriptions_account_idx ON subscriptions (tenant_id, account_id, create_time, subscription_id);
CREATE INDEX subscriptions_contract_idx ON subscriptions (tenant_id, contract_id, create_time, subscription_id);
CREATE INDEX subscriptions_product_idx ON subscriptions (tenant_id, product_code, create_time, subscription_id);
CREATE INDEX subscriptions_currency_idx ON subscriptions (tenant_id, currency_code, create_time, subscription_id);
CREATE INDEX subscriptions_start_idx ON subscriptions (tenant_id, start_time);
CREATE INDEX subscriptions_trial_idx ON subscriptions (tenant_id, trial_end_time);
CREATE INDEX subscriptions_end_idx ON subscriptions (tenant_id, end_time);
CREATE INDEX subscriptions_paused_idx ON subscriptions (tenant_id, create_time, subscription_id) WHERE paused;

COMMENT ON TABLE subscriptions IS 'What accounts pay for again and again.';
COMMENT ON COLUMN subscriptions.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN subscriptions.subscription_id IS 'Chosen by the caller; never changed.';
COMMENT ON COLUMN subscriptions.account_id IS 'The account that pays; never changed.';
COMMENT ON COLUMN subscriptions.incarnation IS 'The incarnation of the account, for the activity trail; never changed.';
COMMENT ON COLUMN subscriptions.display_name IS 'The plan or product, for people.';
COMMENT ON COLUMN subscriptions.product_code IS 'The callers'' code of the product; empty for none.';
COMMENT ON COLUMN subscriptions.unit_amount IS 'The price of one unit for one interval, in units of the currency.';
COMMENT ON COLUMN subscriptions.currency_code IS 'ISO 4217 code of the currency.';
COMMENT ON COLUMN subscriptions.quantity IS 'How many units.';
COMMENT ON COLUMN subscriptions.interval_unit IS 'DAY, WEEK, MONTH or YEAR.';
COMMENT ON COLUMN subscriptions.interval_count IS 'How many of these an interval has.';
COMMENT ON COLUMN subscriptions.start_time IS 'The first instant.';
COMMENT ON COLUMN subscriptions.trial_end_time IS 'The first instant after the trial; null for none.';
COMMENT ON COLUMN subscriptions.stated_end_time IS 'The first instant after the end, as the last put states it; null for an open end.';
COMMENT ON COLUMN subscriptions.discount IS 'The discount in millionths of the price: 333330 is 33.333 percent.';
COMMENT ON COLUMN subscriptions.paused IS 'Whether it is not paid for now.';
COMMENT ON COLUMN subscriptions.contract_id IS 'The contract under which it is paid, of the same account; null for none.';
COMMENT ON COLUMN subscriptions.source_time IS 'When the pushing service last changed it: an older message changes nothing. Null for none.';
COMMENT ON COLUMN subscriptions.cancel_end_time IS 'The first instant after the end that CancelSubscription has set; null if it is not cancelled.';
COMMENT ON COLUMN subscriptions.cancel_time IS 'When CancelSubscription last ended it earlier; null if it is not cancelled.';
COMMENT ON COLUMN subscriptions.cancel_reason IS 'The reason given then; empty for none.';
COMMENT ON COLUMN subscriptions.end_time IS 'The earlier of the two ends, which holds; null for an open end.';
COMMENT ON COLUMN subscriptions.metadata IS 'String map for callers'' own use.';
COMMENT ON COLUMN subscriptions.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN subscriptions.create_time IS 'When the row was created.';
COMMENT ON COLUMN subscriptions.update_time IS 'When the row was last changed.';

ALTER TABLE subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE subscriptions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON subscriptions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON subscriptions TO customer_accounts_app;

CREATE TABLE orders (
    tenant_id     text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    order_id      text COLLATE "C" NOT NULL CHECK (char_length(order_id) BETWEEN 1 AND 50),
    account_id    text COLLATE "C" NOT NULL,
    incarnation   text COLLATE "C" NOT NULL,
    purchaser_id  text COLLATE "C",
    has_purchaser boolean NOT NULL CHECK (has_purchaser OR purchaser_id IS NULL),
    amount        numeric(22,9) NOT NULL CHECK (amount >= 0),
    currency_code text COLLATE "C" NOT NULL,
    order_time    timestamptz NOT NULL,
    description   text NOT NULL CHECK (char_length(description) <= 2000),
    contract_id   text COLLATE "C",
    state         text COLLATE "C" NOT NULL DEFAULT 'RECORDED' CHECK (state IN ('RECORDED', 'CANCELLED')),
    cancel_time   timestamptz CHECK ((cancel_time IS NOT NULL) = (state = 'CANCELLED')),
    cancel_reason text NOT NULL DEFAULT '' CHECK (char_length(cancel_reason) <= 500),
    metadata      jsonb NOT NULL,
    revision      bigint NOT NULL DEFAULT 1,
    create_time   timestamptz NOT NULL DEFAULT now(),
    update_time   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_pkey PRIMARY KEY (tenant_id, order_id),
    CONSTRAINT orders_account_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts,
    CONSTRAINT orders_contract_fkey FOREIGN KEY (tenant_id, contract_id) REFERENCES contracts,
    CONSTRAINT orders_purchaser_fkey FOREIGN KEY (tenant_id, purchaser_id) REFERENCES people ON DELETE SET NULL (purchaser_id)
);
CREATE INDEX orders_order_time_idx ON orders (tenant_id, order_time, order_id);
CREATE INDEX orders_account_idx ON orders (tenant_id, account_id, order_time, order_id) INCLUDE (state);
CREATE INDEX orders_purchaser_idx ON orders (tenant_id, purchaser_id, order_time, order_id);
CREATE INDEX orders_contract_idx ON orders (tenant_id, contract_id, order_time, order_id);
CREATE INDEX orders_cancelled_idx ON orders (tenant_id, order_time, order_id) WHERE state = 'CANCELLED';

COMMENT ON TABLE orders IS 'What accounts have bought: facts.';
COMMENT ON COLUMN orders.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN orders.order_id IS 'Chosen by the caller; never changed.';
COMMENT ON COLUMN orders.account_id IS 'The account that has bought; never changed.';
COMMENT ON COLUMN orders.incarnation IS 'The incarnation of the account, for the activity trail; never changed.';
COMMENT ON COLUMN orders.purchaser_id IS 'The person who has bought; null if none was named, or once the person is deleted.';
COMMENT ON COLUMN orders.has_purchaser IS 'Whether it was recorded with a purchaser, who may have been deleted since.';
COMMENT ON COLUMN orders.amount IS 'What it costs, in units of the currency; never changed.';
COMMENT ON COLUMN orders.currency_code IS 'ISO 4217 code of the currency; never changed.';
COMMENT ON COLUMN orders.order_time IS 'When it was bought; never changed.';
COMMENT ON COLUMN orders.description IS 'What was bought; empty for none; never changed.';
COMMENT ON COLUMN orders.contract_id IS 'The contract under which it was bought, of the same account; null for none; never changed.';
COMMENT ON COLUMN orders.state IS 'RECORDED or CANCELLED.';
COMMENT ON COLUMN orders.cancel_time IS 'When it was cancelled; null if it was not.';
COMMENT ON COLUMN orders.cancel_reason IS 'Why it was cancelled; empty for none.';
COMMENT ON COLUMN orders.metadata IS 'String map for callers'' own use.';
COMMENT ON COLUMN orders.revision IS 'Counts the changes of the row; part of the etag.';
COMMENT ON COLUMN orders.create_time IS 'When the row was created.';
COMMENT ON COLUMN orders.update_time IS 'When the row was last changed.';

ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orders
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO customer_accounts_app;

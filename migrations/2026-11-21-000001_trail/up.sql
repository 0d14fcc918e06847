-- What every changing call writes beside its own rows: the answered requests and the activity trail.

CREATE TABLE requests (
    tenant_id   text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    request_id  text COLLATE "C" NOT NULL CHECK (char_length(request_id) BETWEEN 1 AND 100),
    fingerprint bytea NOT NULL,
    response    bytea,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, request_id)
);
CREATE INDEX requests_create_time_idx ON requests (tenant_id, create_time);

COMMENT ON TABLE requests IS 'Answers of changing calls that carried a request_id, kept 24 hours so that a repeat gets the first answer (AIP-155).';
COMMENT ON COLUMN requests.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN requests.request_id IS 'The id the client chose for the request.';
COMMENT ON COLUMN requests.fingerprint IS 'SHA-256 of call, actor and request message: the same id with another request is refused.';
COMMENT ON COLUMN requests.response IS 'The encoded response message; null only inside the transaction that is answering.';
COMMENT ON COLUMN requests.create_time IS 'When the request was first answered; the row is forgotten 24 hours later.';

CREATE TABLE activities (
    tenant_id      text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    activity_id    text COLLATE "C" NOT NULL CHECK (char_length(activity_id) BETWEEN 1 AND 50),
    transaction_id bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
    ordinal        integer NOT NULL CHECK (ordinal >= 0),
    create_time    timestamptz NOT NULL DEFAULT now(),
    actor          text NOT NULL,
    method         text NOT NULL,
    request_id     text,
    action         text NOT NULL,
    resource_type  text COLLATE "C" NOT NULL,
    resource_id    text COLLATE "C" NOT NULL,
    account_id     text COLLATE "C",
    changes        jsonb NOT NULL,
    CONSTRAINT activities_pkey PRIMARY KEY (tenant_id, activity_id)
);

COMMENT ON TABLE activities IS 'The activity trail: one row for each change, written in the transaction of the change. Append-only.';
COMMENT ON COLUMN activities.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN activities.activity_id IS 'Generated TypeID (actv_…), sortable by age.';
COMMENT ON COLUMN activities.transaction_id IS 'The transaction that wrote the row; with ordinal the order of the feed.';
COMMENT ON COLUMN activities.ordinal IS 'Position of the change inside its transaction, from 0.';
COMMENT ON COLUMN activities.create_time IS 'Start of the transaction that made the change.';
COMMENT ON COLUMN activities.actor IS 'Who made the change: the subject of the caller.';
COMMENT ON COLUMN activities.method IS 'The gRPC call, as service/method.';
COMMENT ON COLUMN activities.request_id IS 'The request_id the caller sent, if any.';
COMMENT ON COLUMN activities.action IS 'What happened, as noun.verb: account.created.';
COMMENT ON COLUMN activities.resource_type IS 'The kind of resource changed: account, account_type, organization.';
COMMENT ON COLUMN activities.resource_id IS 'The id of the resource changed.';
COMMENT ON COLUMN activities.account_id IS 'The account the change belongs to, if it belongs to one.';
COMMENT ON COLUMN activities.changes IS 'Array of {field, before, after}; a deletion holds the last snapshot.';

ALTER TABLE requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE requests FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON requests USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON requests TO customer_accounts_app;

ALTER TABLE activities ENABLE ROW LEVEL SECURITY;
ALTER TABLE activities FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON activities USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT ON activities TO customer_accounts_app;

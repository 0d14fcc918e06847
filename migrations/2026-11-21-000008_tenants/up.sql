-- The settings of a tenant, and which modules are switched off: for all of it, and for organizations.

ALTER TABLE tenants
    ADD COLUMN account_id_prefix       text NOT NULL DEFAULT 'acct' CHECK (char_length(account_id_prefix) BETWEEN 1 AND 20),
    ADD COLUMN default_currency        text CHECK (char_length(default_currency) = 3),
    ADD COLUMN membership_roles        text[] NOT NULL DEFAULT '{buyer,member,owner}' CHECK (cardinality(membership_roles) BETWEEN 1 AND 50),
    ADD COLUMN activity_retention_days integer CHECK (activity_retention_days BETWEEN 1 AND 36500),
    ADD COLUMN modules_off             text[] NOT NULL DEFAULT '{}',
    ADD COLUMN modules_off_below       text[] NOT NULL DEFAULT '{}',
    ADD COLUMN revision                bigint NOT NULL DEFAULT 0,
    ADD COLUMN update_time             timestamptz;

COMMENT ON TABLE tenants IS 'One row for each tenant that has settings, or whose organizations have been put below one another; without a row the defaults hold. Locked by whoever changes the shape of the forest, a setting or a module.';
COMMENT ON COLUMN tenants.account_id_prefix IS 'What generated account ids begin with, before the underscore.';
COMMENT ON COLUMN tenants.default_currency IS 'Currency of amounts for which none is given, as its ISO 4217 code; null for none.';
COMMENT ON COLUMN tenants.membership_roles IS 'The roles that a user of an account can be given, in alphabetical order.';
COMMENT ON COLUMN tenants.activity_retention_days IS 'Days for which activities are kept; null for ever.';
COMMENT ON COLUMN tenants.modules_off IS 'The modules switched off for the whole tenant, in alphabetical order.';
COMMENT ON COLUMN tenants.modules_off_below IS 'The modules that some organization is switched off from, in alphabetical order: without one, no call looks at organizations.';
COMMENT ON COLUMN tenants.revision IS 'Counts the changes of the settings; the etag.';
COMMENT ON COLUMN tenants.update_time IS 'When the settings were last changed; null for never.';

CREATE TABLE module_activations (
    tenant_id       text COLLATE "C" NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), ''),
    organization_id text COLLATE "C" NOT NULL,
    module          text COLLATE "C" NOT NULL CHECK (char_length(module) BETWEEN 1 AND 50),
    activation_id   text COLLATE "C" NOT NULL CHECK (activation_id = module || '/' || organization_id),
    active          boolean NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT module_activations_pkey PRIMARY KEY (tenant_id, organization_id, module),
    CONSTRAINT module_activations_organization_fkey FOREIGN KEY (tenant_id, organization_id) REFERENCES organizations ON DELETE CASCADE
);
CREATE INDEX module_activations_module_idx ON module_activations (tenant_id, module, organization_id);
CREATE INDEX module_activations_activation_idx ON module_activations (tenant_id, activation_id);
CREATE INDEX module_activations_create_time_idx ON module_activations (tenant_id, create_time, activation_id);

COMMENT ON TABLE module_activations IS 'Modules that are switched on or off for an organization, and for everything below it that has no row of its own.';
COMMENT ON COLUMN module_activations.tenant_id IS 'The tenant the row belongs to.';
COMMENT ON COLUMN module_activations.organization_id IS 'The organization.';
COMMENT ON COLUMN module_activations.module IS 'The module, as calls name it in their policy.';
COMMENT ON COLUMN module_activations.activation_id IS 'Module and organization as one text: the order of lists, and the id in the activity trail.';
COMMENT ON COLUMN module_activations.active IS 'Whether the module is on.';
COMMENT ON COLUMN module_activations.create_time IS 'When the row was created.';
COMMENT ON COLUMN module_activations.update_time IS 'When the row was last changed.';

ALTER TABLE module_activations ENABLE ROW LEVEL SECURITY;
ALTER TABLE module_activations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON module_activations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE, DELETE ON module_activations TO customer_accounts_app;

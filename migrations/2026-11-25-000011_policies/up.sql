-- The tenant of the transaction is asked for once a statement, by a sub-select. Compared with the setting itself, the planner looks at
-- its present value: a generic plan made under a tenant without rows then served every tenant of the connection.
ALTER POLICY tenant ON account_organizations USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON account_types USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON account_users USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON account_words USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON accounts USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON activities USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON module_activations USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON organization_ancestors USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON organization_members USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON organization_words USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON organizations USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON people USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON person_words USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON requests USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));
ALTER POLICY tenant ON tenants USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')));

-- A request id belongs to the actor who chose it: the same id of another actor is another request.
ALTER TABLE requests ADD COLUMN actor text COLLATE "C";
-- For these statements the owner sees the rows of all tenants.
ALTER TABLE requests NO FORCE ROW LEVEL SECURITY;
ALTER TABLE activities NO FORCE ROW LEVEL SECURITY;
UPDATE requests SET actor = activities.actor FROM activities
    WHERE activities.tenant_id = requests.tenant_id AND activities.request_id = requests.request_id
    AND activities.create_time = requests.create_time;
-- Requests that changed nothing left no activity: a repeat changes nothing either, or is the first that does.
DELETE FROM requests WHERE actor IS NULL;
ALTER TABLE activities FORCE ROW LEVEL SECURITY;
ALTER TABLE requests FORCE ROW LEVEL SECURITY;
ALTER TABLE requests ALTER COLUMN actor SET NOT NULL;
ALTER TABLE requests DROP CONSTRAINT requests_pkey;
ALTER TABLE requests ADD CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, actor, request_id);
COMMENT ON COLUMN requests.actor IS 'Who made the request: the subject of the caller, whose own name space of ids this is.';

-- Where two actors chose the same id, the younger answer is kept.
ALTER TABLE requests NO FORCE ROW LEVEL SECURITY;
DELETE FROM requests AS older USING requests AS younger
    WHERE older.tenant_id = younger.tenant_id AND older.request_id = younger.request_id
    AND (older.create_time, older.actor) < (younger.create_time, younger.actor);
ALTER TABLE requests FORCE ROW LEVEL SECURITY;
ALTER TABLE requests DROP CONSTRAINT requests_pkey;
ALTER TABLE requests ADD CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, request_id);
ALTER TABLE requests DROP COLUMN actor;
ALTER POLICY tenant ON account_organizations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON account_types USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON account_users USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON account_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON accounts USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON activities USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON module_activations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON organization_ancestors USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON organization_members USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON organization_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON organizations USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON people USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON person_words USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON requests USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
ALTER POLICY tenant ON tenants USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''));

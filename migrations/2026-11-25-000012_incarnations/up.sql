-- Incarnations: the id of a deleted account or organization can be taken again, its incarnation never is. Whoever may see a
-- resource sees the activities of this incarnation of it, and none of the former holder of its id.

-- The default is evaluated for every row there is, and for the rows of replicas of the version before.
ALTER TABLE accounts ADD COLUMN incarnation text COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text;
ALTER TABLE organizations ADD COLUMN incarnation text COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text;
ALTER TABLE activities ADD COLUMN incarnation text COLLATE "C";

COMMENT ON COLUMN accounts.incarnation IS 'Generated once and never used again, unlike account_id: what the activity trail refers to.';
COMMENT ON COLUMN organizations.incarnation IS 'Generated once and never used again, unlike organization_id: what the activity trail refers to.';
COMMENT ON COLUMN activities.incarnation IS 'The incarnation of the account the change belongs to, or of the organization changed. Who sees a part of the tenant is shown the activity if they see that incarnation; null for those who see the whole tenant only.';

-- For these statements the owner sees the rows of all tenants.
ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY;
ALTER TABLE organizations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE module_activations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE activities NO FORCE ROW LEVEL SECURITY;

-- A resource and the activity of its creation have the same time. What is older, or not younger than a deletion under the same
-- id, happened to a former incarnation and is left to those who see the whole tenant.
UPDATE activities SET incarnation = accounts.incarnation FROM accounts
    WHERE accounts.tenant_id = activities.tenant_id AND accounts.account_id = activities.account_id
    AND activities.create_time >= accounts.create_time
    AND NOT EXISTS (SELECT FROM activities AS deletion WHERE deletion.tenant_id = activities.tenant_id
        AND deletion.resource_type = 'account' AND deletion.resource_id = activities.account_id
        AND deletion.action = 'account.deleted' AND deletion.create_time >= activities.create_time);
UPDATE activities SET incarnation = organizations.incarnation FROM organizations
    WHERE activities.resource_type = 'organization'
    AND organizations.tenant_id = activities.tenant_id AND organizations.organization_id = activities.resource_id
    AND activities.create_time >= organizations.create_time
    AND NOT EXISTS (SELECT FROM activities AS deletion WHERE deletion.tenant_id = activities.tenant_id
        AND deletion.resource_type = 'organization' AND deletion.resource_id = activities.resource_id
        AND deletion.action = 'organization.deleted' AND deletion.create_time >= activities.create_time);

-- A pair of ids is `x/y`, and ids may have a slash: inside an id `%` is now written `%25` and `/` is written `%2F`.
UPDATE activities SET resource_id = replace(replace(account_id, '%', '%25'), '/', '%2F') || '/'
        || replace(replace(substr(resource_id, char_length(account_id) + 2), '%', '%25'), '/', '%2F')
    WHERE resource_type IN ('account_user', 'account_organization') AND resource_id ~ '%|/.*/';
UPDATE activities SET resource_id = replace(replace(pair.organization_id, '%', '%25'), '/', '%2F') || '/'
        || replace(replace(substr(resource_id, char_length(pair.organization_id) + 2), '%', '%25'), '/', '%2F')
    FROM (
        SELECT tenant_id, activity_id, coalesce(change ->> 'after', change ->> 'before') AS organization_id
        FROM activities CROSS JOIN jsonb_array_elements(changes) AS change
        WHERE resource_type = 'organization_member' AND resource_id ~ '%|/.*/' AND change ->> 'field' = 'organization_id'
    ) AS pair
    WHERE pair.tenant_id = activities.tenant_id AND pair.activity_id = activities.activity_id;
UPDATE activities SET resource_id = left(resource_id, strpos(resource_id, '/'))
        || replace(replace(substr(resource_id, strpos(resource_id, '/') + 1), '%', '%25'), '/', '%2F')
    WHERE resource_type = 'module_activation' AND resource_id ~ '%|/.*/';

-- No longer an equation: replicas of the version before still write the organization's id as it is.
ALTER TABLE module_activations DROP CONSTRAINT module_activations_check;
UPDATE module_activations SET activation_id = module || '/' || replace(replace(organization_id, '%', '%25'), '/', '%2F')
    WHERE organization_id ~ '[%/]';
ALTER TABLE module_activations ADD CONSTRAINT module_activations_activation_check CHECK (starts_with(activation_id, module || '/'));
COMMENT ON COLUMN module_activations.activation_id IS 'Module and organization as a pair of ids: the order of lists, and the id in the activity trail.';
COMMENT ON COLUMN activities.resource_id IS 'The id of the resource changed; of what is between two resources, both ids with a slash between, in which `%` is written `%25` and `/` is written `%2F`.';

ALTER TABLE accounts FORCE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
ALTER TABLE module_activations FORCE ROW LEVEL SECURITY;
ALTER TABLE activities FORCE ROW LEVEL SECURITY;

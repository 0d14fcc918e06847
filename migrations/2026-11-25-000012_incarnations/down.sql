-- The ids of pairs in the activity trail stay as they are: the version before only shows them.
ALTER TABLE module_activations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE module_activations DROP CONSTRAINT module_activations_activation_check;
UPDATE module_activations SET activation_id = module || '/' || organization_id WHERE organization_id ~ '[%/]';
ALTER TABLE module_activations ADD CONSTRAINT module_activations_check CHECK (activation_id = module || '/' || organization_id);
ALTER TABLE module_activations FORCE ROW LEVEL SECURITY;
COMMENT ON COLUMN module_activations.activation_id IS 'Module and organization as one text: the order of lists, and the id in the activity trail.';
COMMENT ON COLUMN activities.resource_id IS 'The id of the resource changed.';

ALTER TABLE activities DROP COLUMN incarnation;
ALTER TABLE organizations DROP COLUMN incarnation;
ALTER TABLE accounts DROP COLUMN incarnation;

DROP TABLE module_activations;
COMMENT ON TABLE tenants IS 'One row for each tenant whose organizations have been put below one another: locked by whoever changes the shape of the forest.';
ALTER TABLE tenants
    DROP COLUMN account_id_prefix, DROP COLUMN default_currency, DROP COLUMN membership_roles,
    DROP COLUMN activity_retention_days, DROP COLUMN modules_off, DROP COLUMN modules_off_below,
    DROP COLUMN revision, DROP COLUMN update_time;

DROP POLICY owner ON tenants;
ALTER TABLE tenants DROP COLUMN activity_floor;
DROP INDEX activities_actor_idx;
DROP INDEX activities_resource_idx;
DROP INDEX activities_account_idx;
DROP INDEX activities_create_time_idx;
DROP INDEX activities_feed_idx;
ALTER TABLE activities ALTER COLUMN actor TYPE text COLLATE "default";

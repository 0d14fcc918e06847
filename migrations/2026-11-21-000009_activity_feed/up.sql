-- The activity trail is read: as a list by time, and as a feed in the order of (transaction_id, ordinal). Old activities go.

-- What is filtered by must be compared by bytes, or row-level security keeps the filter from the index.
ALTER TABLE activities ALTER COLUMN actor TYPE text COLLATE "C";

-- Not unique: a dump that is restored in another cluster meets its own transaction ids again.
CREATE INDEX activities_feed_idx ON activities (tenant_id, transaction_id, ordinal);
CREATE INDEX activities_create_time_idx ON activities (tenant_id, create_time, activity_id);
CREATE INDEX activities_account_idx ON activities (tenant_id, account_id, create_time, activity_id);
CREATE INDEX activities_resource_idx ON activities (tenant_id, resource_type, resource_id, create_time, activity_id);
CREATE INDEX activities_actor_idx ON activities (tenant_id, actor, create_time, activity_id);

ALTER TABLE tenants ADD COLUMN activity_floor bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tenants.activity_floor IS 'Activities of transactions below this one may be gone: a cursor from before has expired.';

-- Who prunes the trail is the owner of the tables, and finds out here which tenants there are. Everything else of a tenant
-- shows itself to the owner, as to anyone, only inside that tenant.
CREATE POLICY owner ON tenants FOR SELECT TO CURRENT_USER USING (true);

-- The day that a tenant calls today.

ALTER TABLE tenants ADD COLUMN time_zone text COLLATE "C" NOT NULL DEFAULT 'UTC' CHECK (char_length(time_zone) BETWEEN 1 AND 50);
COMMENT ON COLUMN tenants.time_zone IS 'IANA name of the time zone whose day is today for memberships.';

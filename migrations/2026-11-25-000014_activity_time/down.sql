ALTER TABLE activities ALTER COLUMN create_time SET DEFAULT now();
COMMENT ON COLUMN activities.create_time IS 'Start of the transaction that made the change.';

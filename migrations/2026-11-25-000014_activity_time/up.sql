-- An activity is as old as its writing, which comes after all locks of its transaction: of two changes of one resource, the later one
-- is the younger. The start of the transaction is not: who began first may have waited for the other.
ALTER TABLE activities ALTER COLUMN create_time SET DEFAULT statement_timestamp();
COMMENT ON COLUMN activities.create_time IS 'When the change was made: the time of the statement that wrote the row.';

DROP TABLE delivery_setups;
DROP TABLE contract_words;
DROP TABLE contracts;
COMMENT ON COLUMN tenants.time_zone IS 'IANA name of the time zone whose day is today for memberships.';

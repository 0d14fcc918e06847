-- The roles and logins of compose.yaml, as docs/OPERATIONS.md explains them.
CREATE ROLE customer_accounts_owner NOLOGIN;
CREATE ROLE customer_accounts_app NOLOGIN;
GRANT USAGE, CREATE ON SCHEMA public TO customer_accounts_owner;
GRANT USAGE ON SCHEMA public TO customer_accounts_app;
CREATE ROLE migrator LOGIN PASSWORD 'migrator-of-a-first-try' IN ROLE customer_accounts_owner;
CREATE ROLE service LOGIN PASSWORD 'service-of-a-first-try' IN ROLE customer_accounts_app;

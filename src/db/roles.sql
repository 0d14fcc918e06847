-- The roles of a database, made by whoever migrates where they are missing; safe to run again and by several at once.
--   customer_accounts_owner  owns the tables; migrations run as it; nobody logs in as it
--   customer_accounts_app    what the service becomes: no superuser, owns nothing, cannot bypass row security
-- Nobody is made a member of the owner. A login that may grant the service's role to itself gets it, so that it can also serve.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['customer_accounts_owner', 'customer_accounts_app'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another replica was faster
            END;
        END IF;
    END LOOP;
    -- From PostgreSQL 16 on, a member can change to the role only if it has the option SET.
    IF NOT pg_has_role('customer_accounts_app',
                       CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
        BEGIN
            GRANT customer_accounts_app TO CURRENT_USER;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL; -- a login that only migrates
        END;
    END IF;
    IF NOT has_schema_privilege('customer_accounts_owner', 'public', 'CREATE') THEN
        GRANT USAGE, CREATE ON SCHEMA public TO customer_accounts_owner;
    END IF;
    IF NOT has_schema_privilege('customer_accounts_app', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO customer_accounts_app;
    END IF;
END
$$;

-- The roles of a database, made or completed by whoever migrates; safe to run again and by several at once.
--   customer_accounts_owner  owns the tables; migrations run as it; nobody logs in as it
--   customer_accounts_app    what the service becomes: no superuser, owns nothing, cannot bypass row security
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
        IF NOT pg_has_role(current_user, wanted, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user);
        END IF;
    END LOOP;
    IF NOT has_schema_privilege('customer_accounts_owner', 'public', 'CREATE') THEN
        GRANT USAGE, CREATE ON SCHEMA public TO customer_accounts_owner;
    END IF;
    IF NOT has_schema_privilege('customer_accounts_app', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO customer_accounts_app;
    END IF;
END
$$;

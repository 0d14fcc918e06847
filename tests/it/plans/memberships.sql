-- A tenant of 200,000 accounts and 50,000 people, the first 18,000 of whom by name are the organization `first`, and the last
-- 18,000 the organization `last`; a tree of 2,000 organizations; and two small tenants beside it. Columns as the service fills them.
SET session_replication_role = replica; -- foreign keys hold by construction
CREATE TEMP TABLE names AS SELECT '$tenant' AS tenant, 50000 AS people, 200000 AS accounts
    UNION ALL SELECT 'other-' || n, 2500, 2500 FROM generate_series(0, 1) AS n;
CREATE TEMP TABLE units AS SELECT n, 'unit-' || n AS id, CASE WHEN n > 1 THEN (n + 6) / 8 END AS parent FROM generate_series(1, 2000) AS n;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key, parent_id)
    SELECT tenant, id, id, id, 'unit-' || parent FROM names CROSS JOIN units
    UNION ALL SELECT tenant, id, id, id, NULL FROM names CROSS JOIN (VALUES ('first'), ('last'), ('nobody')) AS x (id);
WITH RECURSIVE closure (n, above, distance) AS (
    SELECT n, n, 0 FROM units
    UNION ALL SELECT closure.n, parent, distance + 1 FROM closure JOIN units ON units.n = above WHERE parent IS NOT NULL)
INSERT INTO organization_ancestors (tenant_id, organization_id, ancestor_id, distance)
    SELECT tenant, 'unit-' || n, 'unit-' || above, distance FROM names CROSS JOIN closure
    UNION ALL SELECT tenant, id, id, 0 FROM names CROSS JOIN (VALUES ('first'), ('last'), ('nobody')) AS x (id);

-- Names in alphabetical order; ids and times of creation in another. One in 50 is inactive, one in 500 is staff.
CREATE TEMP TABLE filled AS
    SELECT tenant, n, people AS of, 'pers-' || lpad((n * 7919 % people)::text, 5, '0') AS id, 'name ' || lpad(n::text, 6, '0') AS key,
        '2026-01-01Z'::timestamptz + n * 7919 % people * interval '1 second' AS at
    FROM names CROSS JOIN generate_series(0, people - 1) AS n;
INSERT INTO people (tenant_id, person_id, display_name, sort_key, email, kind, active, create_time)
    SELECT tenant, id, initcap(key), key, n || '@acme.example', CASE WHEN n % 500 = 0 THEN 'STAFF' ELSE 'CUSTOMER' END, n % 50 <> 7, at
    FROM filled;
INSERT INTO person_words (tenant_id, person_id, word)
    SELECT tenant, id, unnest(ARRAY[id, 'name', 'group' || n % 97])
    FROM filled;
INSERT INTO organization_members (tenant_id, organization_id, person_id, sort_key, person_create_time)
    SELECT tenant, 'first', id, key, at FROM filled WHERE n < of * 0.36
    UNION ALL SELECT tenant, 'last', id, key, at FROM filled WHERE n >= of * 0.64
    UNION ALL SELECT tenant, 'unit-' || 1 + n % 2000, id, key, at FROM filled WHERE n % 2 = 0;

INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, status, create_time)
    SELECT tenant, 'acct-' || n, 'Account ' || n, 'account ' || lpad(n::text, 6, '0'),
        CASE n WHEN 1 THEN 'first' WHEN 2 THEN 'last' WHEN 3 THEN 'nobody' WHEN 4 THEN 'unit-1' ELSE 'unit-' || 1 + n % 2000 END, 'ACTIVE',
        '2026-01-01Z'::timestamptz + n * interval '1 second' FROM names CROSS JOIN generate_series(1, accounts) AS n;
INSERT INTO account_organizations (tenant_id, account_id, organization_id, own, include_descendants)
    SELECT tenant_id, account_id, organization_id, true, account_id = 'acct-4' FROM accounts;
-- One in a hundred is linked to another organization too.
INSERT INTO account_organizations (tenant_id, account_id, organization_id, own, include_descendants)
    SELECT tenant, 'acct-' || n, 'unit-' || 2 + n % 1999, false, n % 300 = 50
    FROM names CROSS JOIN generate_series(50, accounts, 100) AS n WHERE n % 2000 <> 1 + n % 1999;
-- Users of everywhere: one person on each account; and of `acct-3` every tenth, whom `acct-1` pays heed to as well.
INSERT INTO account_users (tenant_id, account_id, person_id, individual, billing, sort_key, person_create_time)
    SELECT accounts.tenant_id, account_id, id, true, false, key, at
    FROM accounts JOIN filled ON tenant = tenant_id AND n = hashint4(substr(account_id, 6)::int) & 2047 WHERE substr(account_id, 6)::int > 4
    UNION ALL SELECT tenant, 'acct-3', id, true, n % 20 = 0, key, at FROM filled WHERE n % 10 = 0
    UNION ALL SELECT tenant, 'acct-1', id, n % 100 = 0, n % 20 = 0, key, at FROM filled WHERE n % 10 = 0 AND (n < of * 0.36 OR n % 100 = 0)
    UNION ALL SELECT tenant, 'acct-2', id, false, true, key, at FROM filled WHERE n >= of * 0.64 AND n % 1000 = 0;
UPDATE accounts SET billing_contact_id = id, cc_billing_contact_id = id, primary_contact_id = id
    FROM filled WHERE tenant = tenant_id AND n = 10 AND account_id = 'acct-1';

-- A trail: 60,000 changes to accounts here and there, in large transactions, so that their ids are behind even a new cluster.
INSERT INTO activities (tenant_id, activity_id, transaction_id, ordinal, create_time, actor, method, action, resource_type, resource_id,
        account_id, changes, incarnation)
    SELECT '$tenant', 'actv_' || lpad(n::text, 8, '0'), 1 + n / 300, n % 300, '2026-01-01Z'::timestamptz + n * interval '1 second',
        'actor', 'm', 'x', 'account', account, account, '[]', incarnation
    FROM generate_series(1, 60000) AS n CROSS JOIN LATERAL (SELECT 'acct-' || n::bigint * 7919 % 200000 AS account) AS changed
    LEFT JOIN accounts ON tenant_id = '$tenant' AND account_id = account;
-- Managers by name of what they manage: everything, 585 organizations, 73, one.
UPDATE people SET subject = names.subject
    FROM (VALUES (20000, 'all'), (20002, 'region'), (20016, 'district'), (21998, 'office')) AS names (n, subject)
    JOIN filled ON filled.n = names.n AND tenant = '$tenant' WHERE tenant_id = tenant AND person_id = id;
SET session_replication_role = DEFAULT;

ALTER TABLE account_words NO FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_words NO FORCE ROW LEVEL SECURITY;
DELETE FROM account_words WHERE word >= E'\x01' AND word < E'\x02';
DELETE FROM organization_words WHERE word >= E'\x01' AND word < E'\x02';
ALTER TABLE account_words FORCE ROW LEVEL SECURITY;
ALTER TABLE organization_words FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN account_words.word IS 'A normalised word of its id, name or inline primary contact; or the id of the person who is its primary contact behind an @, which no word begins with.';
COMMENT ON COLUMN organization_words.word IS 'A normalised word of its id or name.';
DROP INDEX organizations_top_idx;
DROP INDEX accounts_without_type_idx;
DROP INDEX accounts_is_primary_idx;
DROP INDEX accounts_update_time_idx;
ALTER TABLE organizations DROP COLUMN metadata;
ALTER TABLE accounts DROP COLUMN tax_id;

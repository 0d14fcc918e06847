DROP TABLE organization_words;
DROP TABLE organization_ancestors;
DROP TABLE organizations;

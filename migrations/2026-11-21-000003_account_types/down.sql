DROP TABLE account_types;

DROP TABLE account_words;
DROP TABLE accounts;

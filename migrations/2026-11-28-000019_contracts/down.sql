DROP TABLE delivery_setups;
DROP TABLE contract_words;
DROP TABLE contracts;

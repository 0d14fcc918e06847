DROP TABLE portfolio_words;
DROP TABLE portfolio_items;
DROP TABLE portfolios;

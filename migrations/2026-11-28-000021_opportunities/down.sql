DROP TABLE opportunity_words;
DROP TABLE opportunities;

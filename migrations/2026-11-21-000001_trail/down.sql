DROP TABLE activities;
DROP TABLE requests;

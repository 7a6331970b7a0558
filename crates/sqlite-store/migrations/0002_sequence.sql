-- The last sequence that was seen issued: a file that has issued fewer is an older copy.
ALTER TABLE database ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;

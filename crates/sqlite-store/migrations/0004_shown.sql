-- The last of its own changes that was given to a peer; NULL where that was not noted.
ALTER TABLE database ADD COLUMN shown INTEGER;

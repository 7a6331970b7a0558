-- The boot of the machine in which the file may have issued what is not on the disk yet; NULL after a clean stop.
ALTER TABLE database ADD COLUMN boot TEXT;

-- Whose folder this is: a copy on another machine, or under another node's name, knows nothing of the files there.
CREATE TABLE owner (
    machine TEXT,
    node TEXT NOT NULL
) STRICT;

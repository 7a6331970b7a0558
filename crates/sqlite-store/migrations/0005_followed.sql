-- How far each database was when somebody first followed its changes, how far what is noted of it below reaches back, what nobody can
-- go on from any more, the origin that it had when it was last noted, and when somebody last began to follow it.
CREATE TABLE followed (
    database TEXT PRIMARY KEY,
    first TEXT NOT NULL,
    based TEXT NOT NULL,
    lost TEXT NOT NULL,
    source BLOB NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- In which order followers were shown changes: which sequences were reached, and whether a database lost what it had.
CREATE TABLE followed_step (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    database TEXT NOT NULL,
    raised TEXT NOT NULL,
    lost INTEGER NOT NULL
) STRICT;

"""Counts in table t of a file, each time in a transaction of its own, or rebuilds the table while others count.

    count_writer.py FILE count TIMES
    count_writer.py FILE rebuild TIMES
"""

import sqlite3
import sys
import time

REBUILD = """
BEGIN IMMEDIATE;
CREATE TABLE t_new (id INTEGER PRIMARY KEY, n);
INSERT INTO t_new SELECT * FROM t;
DROP TABLE t;
ALTER TABLE t_new RENAME TO t;
COMMIT;
"""
# Between two rebuilds others get to count this often, or have this many seconds.
COUNTS = 10
PATIENCE = 1.0


def count(db, times):
    for _ in range(times):
        db.execute("BEGIN IMMEDIATE")
        changed = db.execute("UPDATE t SET n = n + 1").rowcount
        db.execute("COMMIT")
        assert changed == 1, changed


def rebuild(db, times):
    for _ in range(times):
        db.executescript(REBUILD)
        (before,) = db.execute("SELECT n FROM t").fetchone()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and db.execute("SELECT n FROM t").fetchone()[0] < before + COUNTS:
            time.sleep(0.005)


def main():
    path, what, times = sys.argv[1:]
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    {"count": count, "rebuild": rebuild}[what](db, int(times))
    db.close()


main()

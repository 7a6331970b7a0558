"""Writes a file without a pause until another file appears: each transaction changes two tables alike, far apart in the file.

    pair_writer.py FILE STOP

What it has committed in the end is printed: the number of transactions.
"""

import os
import sqlite3
import sys


def main():
    path, stop = sys.argv[1:]
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    # What is asked here is what others see, not what a power cut leaves.
    db.execute("PRAGMA synchronous = OFF")
    done = 0
    while not os.path.exists(stop):
        done += 1
        db.execute("BEGIN IMMEDIATE")
        for table in ("one", "two"):
            db.execute(f"UPDATE {table} SET n = n + 1 WHERE id % 97 = ?", (done % 97,))
            db.execute(f"INSERT INTO {table} (n, filling) VALUES (1, randomblob(300))")
        db.execute("COMMIT")
    db.close()
    print(done)


main()

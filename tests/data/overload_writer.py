"""An application at work under load, with an ordinary busy timeout of five seconds and nothing else to help it.

usage: overload_writer.py FILE TABLE NODE ROWS STOP [PAUSE]
Writes transactions of ROWS rows into TABLE (id INTEGER PRIMARY KEY, body), PAUSE seconds apart, until the file STOP exists; ids
are even or odd by NODE, which is 0 or 1, so that two writers never take the same. Prints a line of JSON: how many rows were
"written", how many transactions found the database "locked", and how many milliseconds the "longest" took.
"""

import json
import os
import sqlite3
import sys
import time


def main(path, table, node, rows, stop, pause="0"):
    db = sqlite3.connect(path, timeout=5, isolation_level=None)
    db.execute("PRAGMA synchronous = NORMAL")
    written = locked = 0
    longest = 0.0
    while not os.path.exists(stop):
        first = written
        batch = [((first + place) * 2 + int(node), f"row {first + place}") for place in range(int(rows))]
        begun = time.monotonic()
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(f"INSERT INTO {table} VALUES (?, ?)", batch)
            db.execute("COMMIT")
            written += len(batch)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            locked += 1
            if db.in_transaction:
                db.execute("ROLLBACK")
        longest = max(longest, time.monotonic() - begun)
        time.sleep(float(pause))
    print(json.dumps({"written": written, "locked": locked, "longest": round(longest * 1000)}))


main(*sys.argv[1:])

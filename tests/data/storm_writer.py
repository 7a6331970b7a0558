"""Writes seeded changes that are bound to be in conflict with those of other nodes, and tells what it committed.

usage: storm_writer.py FILE NODE SEED FIRST COUNT
FIRST is the number of the first change; texts are made of NODE and that number, so that no text is written twice. For each
committed transaction a line of JSON is printed: the texts "written", those "replaced" (which this writer saw in their
place), those "added" to arrays, and what was "counted" in which row. What SQLite refuses for a unique value is not committed.
"""

import json
import random
import sqlite3
import sys

TABLES = ["item", "card", "claim", "rank", "peak"]
KEYS = 8
CODES = 12
TALLIES = 4
TEXTS_OF_A_CHANGE = 2


class Storm:
    """Makes changes on one file."""

    def __init__(self, path, node, seed):
        self.random = random.Random(seed)
        self.node = node
        self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self.number = 0

    def text(self, place):
        """A text that is written once; none is a part of another one."""
        return f"{self.node}{self.number * TEXTS_OF_A_CHANGE + place:06}."

    def row(self, table, key):
        """What the texts of a row are, if there is one."""
        found = self.db.execute(f"SELECT body, note FROM {table} WHERE id = ?", (key,)).fetchone()
        return found and [text for text in found if text is not None]

    def unique_values(self):
        """A code and a slot, of which all nodes use the same few."""
        return f"code{self.random.randrange(CODES)}", self.random.randrange(CODES)

    def put(self, table, key):
        """Inserts a row, or writes all of it."""
        code, slot = self.unique_values()
        texts = [self.text(0), self.text(1)]
        before = self.row(table, key)
        if before is None:
            row = (key, code, slot, *texts)
            self.db.execute(f"INSERT INTO {table} (id, code, slot, body, note) VALUES (?, ?, ?, ?, ?)", row)
        else:
            row = (code, slot, *texts, key)
            self.db.execute(f"UPDATE {table} SET code = ?, slot = ?, body = ?, note = ? WHERE id = ?", row)
        return {"written": texts, "replaced": before or []}

    def change(self, table, key):
        """Writes one column."""
        column = self.random.choice(["body", "note"])
        before = self.db.execute(f"SELECT {column} FROM {table} WHERE id = ?", (key,)).fetchone()
        if before is None:
            return None
        self.db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (self.text(0), key))
        return {"written": [self.text(0)], "replaced": [before[0]]}

    def recode(self, table, key):
        """Writes one of the unique columns."""
        column, value = self.random.choice(list(zip(["code", "slot"], self.unique_values())))
        self.db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, key))
        return {}

    def drop(self, table, key):
        """Deletes a row."""
        before = self.row(table, key)
        self.db.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
        return {"replaced": before or []}

    def count(self, _table, key):
        """Counts in a row that is never deleted, and writes the column beside it."""
        tally = key % TALLIES
        amount = self.random.randrange(-5, 20)
        before = self.db.execute("SELECT note FROM tally WHERE id = ?", (tally,)).fetchone()
        self.db.execute("UPDATE tally SET n = n + ?, note = ? WHERE id = ?", (amount, self.text(0), tally))
        return {"written": [self.text(0)], "replaced": [before[0]], "counted": {str(tally): amount}}

    def add(self, _table, key):
        """Adds a member to an array in a row that is never deleted."""
        tally = key % TALLIES
        (tags,) = self.db.execute("SELECT tags FROM tally WHERE id = ?", (tally,)).fetchone()
        tags = json.dumps(json.loads(tags) + [self.text(0)])
        self.db.execute("UPDATE tally SET tags = ? WHERE id = ?", (tags, tally))
        return {"added": [self.text(0)]}

    def step(self, number):
        """One transaction; what it committed."""
        self.number = number
        kinds = [self.put, self.put, self.put, self.change, self.change, self.recode, self.drop, self.count, self.add]
        kind = self.random.choice(kinds)
        table = self.random.choice(TABLES)
        key = self.random.randrange(KEYS)
        self.db.execute("BEGIN IMMEDIATE")
        try:
            done = kind(table, key)
        except sqlite3.IntegrityError:
            self.db.execute("ROLLBACK")
            return None
        self.db.execute("COMMIT")
        return done


def main():
    path, node, seed, first, count = sys.argv[1:]
    first = int(first)
    storm = Storm(path, node, f"{seed}-{node}-{first}")
    for number in range(first, first + int(count)):
        done = storm.step(number)
        if done:
            print(json.dumps(done))
    storm.db.close()


main()

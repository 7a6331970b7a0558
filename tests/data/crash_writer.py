"""Writes seeded transactions to rows that are this node's alone, until it is told to stop, and tells what they hold then.

usage: crash_writer.py FILE NODE SEED STOP
It prints a line once it has begun, stops once there is a file STOP, and then prints one object of JSON: the "entries" that it added, the "pairs" that are there, and what
it "counted" in rows that all nodes count in. Both halves of a pair are written in one transaction. Nothing of it is in conflict with what
other nodes write.
"""

import json
import os
import random
import sqlite3
import sys
import time

PAIRS = 30
PAUSE = 0.004


class Writer:
    """Writes one file."""

    def __init__(self, path, node, seed):
        self.random = random.Random(f"{seed}-{node}")
        self.node = node
        self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self.number = 0
        self.entries = {}
        self.pairs = {}
        self.counted = {}
        self.tallies = [row[0] for row in self.db.execute("SELECT id FROM tally ORDER BY id")]

    def text(self):
        self.number += 1
        return f"{self.node}{self.number} " + "x" * self.random.choice([0, 10, 100, 1000])

    def add(self):
        name, body = f"{self.node}-{self.number}", self.text()
        self.db.execute("INSERT INTO entry VALUES (?, ?)", (name, body))
        self.entries[name] = body

    def put(self):
        key, body = self.random.randrange(PAIRS), self.text()
        for half in ("left_half", "right_half"):
            sql = f"INSERT INTO {half} VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
            self.db.execute(sql, (self.node, key, body))
        self.pairs[str(key)] = body

    def drop(self):
        key = self.random.randrange(PAIRS)
        for half in ("left_half", "right_half"):
            self.db.execute(f"DELETE FROM {half} WHERE node = ? AND id = ?", (self.node, key))
        self.pairs.pop(str(key), None)

    def count(self):
        if self.tallies:
            key, amount = self.random.choice(self.tallies), self.random.randrange(-5, 20)
            self.db.execute("UPDATE tally SET n = n + ? WHERE id = ?", (amount, key))
            self.counted[str(key)] = self.counted.get(str(key), 0) + amount

    def transaction(self):
        self.db.execute("BEGIN IMMEDIATE")
        for _ in range(self.random.choice([1, 1, 2, 5])):
            self.random.choice([self.add, self.put, self.put, self.drop, self.count])()
        self.db.execute("COMMIT")


def main():
    path, node, seed, stop = sys.argv[1:]
    writer = Writer(path, node, seed)
    writer.transaction()
    print("begun", flush=True)
    while not os.path.exists(stop):
        writer.transaction()
        time.sleep(PAUSE)
    print(json.dumps({"entries": writer.entries, "pairs": writer.pairs, "counted": writer.counted}))
    writer.db.close()


main()

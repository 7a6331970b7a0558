"""Writes seeded random operations: inserts, updates, deletes, replacements, changed keys, in transactions of any size.

usage: random_writer.py FILE SEED OPERATIONS PROGRESS LIMIT
The file PROGRESS holds the number of operations that are made, the file LIMIT how many may be: whoever runs this raises it. Which operations are made depends on the seed
alone, except that those that find no row do nothing; an operation that SQLite refuses counts as made.
"""

import random
import sqlite3
import sys
import time

KEYS = 150
WIDE = [0, 1, -1, 255, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
REALS = [0.0, -0.0, 1.0, -1.5, 1e300, 5e-324, 0.1, float("inf"), float("-inf"), 9007199254740993.0]
TEXTS = ["", "a", "Ångström", "nul\0inside", "'quoted'", "12", "1e3", "日本語", "x" * 300]

# Table, key columns, other columns.
TABLES = [
    ("item", ["id"], ["a", "b", "c", "d", "e"]),
    ("note", ["name"], ["body", "n"]),
    ("pair", ["x", "y"], ["v", "w"]),
    ("label", ["tag"], ["v", "n"]),
    ("chunk", ["hash"], ["data", "size"]),
    ("account", ["id"], ["email", "balance"]),
    ("parent", ["id"], ["name"]),
    ("child", ["id"], ["parent", "v"]),
]


class Writer:
    """Makes operations on one file."""

    def __init__(self, path, seed):
        self.random = random.Random(seed)
        self.db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self.db.execute("PRAGMA foreign_keys = ON")

    def value(self):
        """A value of any storage class."""
        kind = self.random.randrange(6)
        if kind == 0:
            return None
        if kind == 1:
            return self.random.choice(WIDE)
        if kind == 2:
            return self.random.choice(REALS)
        if kind == 3:
            return self.random.choice(TEXTS)
        if kind == 4:
            return self.random.randbytes(self.random.choice([0, 1, 8, 200]))
        return self.random.randrange(-1000, 1000)

    def key(self, table):
        """A key of the table, from few enough that nodes meet."""
        number = self.random.randrange(KEYS)
        if table == "note":
            return [f"note {number}"]
        if table == "pair":
            return [number % 12, f"y{number // 12}"]
        if table == "label":
            return [self.random.choice(["Tag{}", "tag{}", "TAG{}"]).format(number)]
        if table == "chunk":
            return [bytes([number, 0, 255 - number])]
        if table in ("item", "account") and number < 4:
            return [self.random.choice([2**63 - 1, -(2**63), 0, -5])]
        return [number]

    def cell(self, column):
        """A value that suits the column."""
        if column == "email":
            return self.random.choice([None, f"user{self.random.randrange(KEYS)}@example.org"])
        if column == "parent":
            return self.random.choice([None, self.random.randrange(KEYS)])
        return self.value()

    def write(self, table, keys, columns, verb):
        names = keys + columns
        marks = ", ".join("?" * len(names))
        values = self.key(table) + [self.cell(column) for column in columns]
        self.db.execute(f"{verb} INTO {table} ({', '.join(names)}) VALUES ({marks})", values)

    def update(self, table, keys, columns):
        chosen = self.random.sample(columns, self.random.randint(1, len(columns)))
        values = [self.cell(column) for column in chosen]
        self.run_on_key(f"UPDATE {table} SET {', '.join(f'{column} = ?' for column in chosen)}", values, table, keys)

    def change_key(self, table, keys):
        self.run_on_key(f"UPDATE {table} SET {', '.join(f'{key} = ?' for key in keys)}", self.key(table), table, keys)

    def run_on_key(self, statement, values, table, keys):
        where = " AND ".join(f"{key} = ?" for key in keys)
        self.db.execute(f"{statement} WHERE {where}", values + self.key(table))

    def operation(self):
        """One random operation; SQLite may refuse it."""
        table, keys, columns = self.random.choice(TABLES)
        kind = self.random.randrange(100)
        try:
            if kind < 35:
                self.write(table, keys, columns, "INSERT")
            elif kind < 45:
                self.write(table, keys, columns, "INSERT OR REPLACE")
            elif kind < 75:
                self.update(table, keys, columns)
            elif kind < 82:
                self.change_key(table, keys)
            else:
                self.run_on_key(f"DELETE FROM {table}", [], table, keys)
        except sqlite3.IntegrityError:
            pass

    def transaction(self, operations):
        """Several operations; one transaction in twenty is rolled back, its operations count nevertheless."""
        self.db.execute("BEGIN IMMEDIATE")
        for _ in range(operations):
            self.operation()
        self.db.execute("ROLLBACK" if self.random.randrange(20) == 0 else "COMMIT")


def await_permission(limit, done):
    """Returns once more than `done` operations are permitted."""
    while True:
        with open(limit, encoding="ascii") as file:
            # It may be read while it is being written.
            if int(file.read().strip() or 0) > done:
                return
        time.sleep(0.01)


def main():
    path, seed, operations, progress, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
    writer = Writer(path, seed)
    done = 0
    while done < operations:
        await_permission(limit, done)
        size = min(writer.random.choice([1, 1, 1, 2, 5, 10, 40]), operations - done)
        writer.transaction(size)
        done += size
        with open(progress, "w", encoding="ascii") as file:
            file.write(f"{done}\n")
    writer.db.close()


main()

"""Works on a Chinook database as one shop among several: sales, price changes, playlists.

usage: chinook_writer.py FILE SHOP INVOICES
Keys of new rows come from the shop's own range, so that each sale of each shop can be counted afterwards.
"""

import random
import sqlite3
import sys

path, shop, invoices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=30, isolation_level=None)
db.execute("PRAGMA foreign_keys = ON")
db.execute("PRAGMA synchronous = OFF")
choice = random.Random(shop)
base = shop * 100_000
tracks = [row[0] for row in db.execute("SELECT TrackId FROM Track ORDER BY TrackId")]
customers = [row[0] for row in db.execute("SELECT CustomerId FROM Customer ORDER BY CustomerId")]

for number in range(1, invoices + 1):
    db.execute("BEGIN IMMEDIATE")
    lines = [(base + number * 10 + line, base + number, choice.choice(tracks), 0.99, 1 + line) for line in range(3)]
    db.execute(
        "INSERT INTO Invoice (InvoiceId, CustomerId, InvoiceDate, BillingCity, Total) VALUES (?, ?, ?, ?, ?)",
        (base + number, choice.choice(customers), "2026-01-01 00:00:00", "Zürich", sum(0.99 * line[4] for line in lines)),
    )
    db.executemany("INSERT INTO InvoiceLine VALUES (?, ?, ?, ?, ?)", lines)
    db.execute("UPDATE Track SET UnitPrice = ?, Composer = ? WHERE TrackId = ?", (choice.randint(50, 199) / 100, f"shop {shop}", choice.choice(tracks)))
    db.execute("UPDATE Track SET Milliseconds = Milliseconds + 1 WHERE TrackId = ?", (choice.choice(tracks),))
    db.execute("DELETE FROM PlaylistTrack WHERE PlaylistId = 1 AND TrackId = ?", (tracks[number * 3 + shop],))
    db.execute("COMMIT")

db.execute("INSERT INTO Playlist VALUES (?, ?)", (base + 1, f"Shop {shop}"))
db.executemany("INSERT INTO PlaylistTrack VALUES (?, ?)", [(base + 1, track) for track in choice.sample(tracks, 50)])
db.close()

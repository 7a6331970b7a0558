//! A small sample database and an application that writes to it: what the demo shows.
//!
//! The application is as foreign to the daemon as any other: its own connection, plain SQL, no knowledge of sync.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::error::StoreError;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS stock (
        sku TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        qty INTEGER NOT NULL DEFAULT 0,
        price REAL,
        updated_at TEXT
    );
    CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY,
        sku TEXT NOT NULL REFERENCES stock (sku) ON DELETE CASCADE,
        qty INTEGER NOT NULL,
        placed_at TEXT NOT NULL
    );
";

const TITLES: [&str; 6] = ["Espresso cup", "Teapot", "Milk jug", "Sugar bowl", "Cake stand", "Tray"];

/// Makes the sample's tables where they are missing; with `goods`, also its first rows where there are none.
///
/// # Errors
/// The file cannot be opened or written.
pub fn create(path: &Path, goods: bool) -> Result<(), StoreError> {
    let conn = open(path)?;
    conn.execute_batch(SCHEMA)?;
    let rows: i64 = conn.query_row("SELECT count(*) FROM stock", [], |row| row.get(0))?;
    if goods && rows == 0 {
        let transaction = conn.unchecked_transaction()?;
        for (number, title) in (1..).zip(TITLES) {
            transaction.execute(
                "INSERT INTO stock VALUES (?1, ?2, ?3, ?4, datetime('now'))",
                (format!("A-{number}"), title, 10 * number, f64::from(number) * 4.5),
            )?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// An application at work on one sample database.
#[derive(Debug)]
pub struct Application {
    conn: Connection,
    /// Makes the ids of this application's orders its own.
    shop: String,
    /// A counter from which each step's choice is drawn.
    step: u32,
}

impl Application {
    /// Opens the file as any program would.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, shop: &str) -> Result<Self, StoreError> {
        Ok(Self { conn: open(path)?, shop: shop.to_owned(), step: 0 })
    }

    /// Writes one transaction and says in words what it did.
    ///
    /// # Errors
    /// SQLite refused it; nothing was written.
    pub fn step(&mut self) -> Result<String, StoreError> {
        self.step += 1;
        let sku = format!("A-{}", 1 + self.step * 5 % 6);
        match self.step % 4 {
            1 => self.order(&sku),
            2 => {
                self.conn.execute(
                    "UPDATE stock SET price = round(price * 1.01, 2), updated_at = datetime('now') WHERE sku = ?1",
                    [&sku],
                )?;
                Ok(format!("raised the price of {sku}"))
            }
            3 => {
                self.conn.execute("UPDATE stock SET qty = qty + 5 WHERE sku = ?1", [&sku])?;
                Ok(format!("restocked {sku}"))
            }
            _ => {
                let gone = self.conn.execute(
                    "DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE id LIKE ?1 ORDER BY placed_at LIMIT 1)",
                    [format!("{}-%", self.shop)],
                )?;
                Ok(if gone == 0 { "had no order to close".to_owned() } else { "closed its oldest order".to_owned() })
            }
        }
    }

    fn order(&mut self, sku: &str) -> Result<String, StoreError> {
        let transaction = self.conn.transaction()?;
        transaction.execute(
            "INSERT INTO orders VALUES (?1 || '-' || lower(hex(randomblob(4))), ?2, 1, \
             strftime('%Y-%m-%d %H:%M:%f', 'now'))",
            [&self.shop, sku],
        )?;
        transaction.execute("UPDATE stock SET qty = max(qty - 1, 0) WHERE sku = ?1", [sku])?;
        transaction.commit()?;
        Ok(format!("took an order of {sku}"))
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    conn.busy_timeout(Duration::from_secs(10))?;
    Ok(conn)
}

//! A database file in a folder of its own, written by other processes, and its log in readable form.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use replication::Origin;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sqlite_store::attach::{AttachRules, Attached, attach_with, introspect};
use sqlite_store::schema::{Schema, Table};
use sqlite_store::{DatabaseRules, connection, detach};
use tempfile::TempDir;

/// A program that writes the file with the machine's SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Python,
    Shell,
}

const PYTHON: &str = "import sqlite3, sys\n\
    c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
    c.executescript(sys.stdin.read())\n";

const PYTHON_WITH_FUNCTIONS: &str = "import sqlite3, sys\n\
    c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
    c.create_collation('mine', lambda a, b: (a > b) - (a < b))\n\
    c.create_function('twice', 1, lambda a: a and a * 2, deterministic=True)\n\
    c.executescript(sys.stdin.read())\n";

impl Writer {
    fn command(self) -> Command {
        let mut command = match self {
            Self::Python => Command::new("python3"),
            Self::Shell => Command::new("sqlite3"),
        };
        match self {
            Self::Python => command.args(["-c", PYTHON]),
            Self::Shell => command.args(["-batch", "-bail"]),
        };
        command
    }
}

/// One database.
pub(crate) struct Sample {
    folder: TempDir,
    pub(crate) writer: Writer,
    pub(crate) conn: Connection,
}

/// Runs a test for each writer, each time with a fresh attached database of this schema.
pub(crate) fn with_both(schema: &str, test: impl Fn(&mut Sample)) {
    for writer in [Writer::Python, Writer::Shell] {
        let mut sample = Sample::new(writer, schema);
        sample.attach();
        test(&mut sample);
    }
}

impl Sample {
    /// A database that is not attached yet.
    pub(crate) fn new(writer: Writer, schema: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("app.db");
        Connection::open(&path).unwrap();
        let conn = connection::open(&path).unwrap();
        let sample = Self { folder, writer, conn };
        sample.write(schema);
        sample
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    /// Runs SQL in a process of its own.
    pub(crate) fn write(&self, sql: &str) {
        if let Err(message) = self.try_write(sql) {
            panic!("{:?} failed: {message}\n{sql}", self.writer);
        }
    }

    pub(crate) fn try_write(&self, sql: &str) -> Result<(), String> {
        run(self.writer.command().arg(self.path()), sql)
    }

    /// Runs SQL in an application that defines a collation `mine` and a function `twice`.
    pub(crate) fn write_with_own_functions(&self, sql: &str) {
        run(Command::new("python3").args(["-c", PYTHON_WITH_FUNCTIONS]).arg(self.path()), sql).unwrap();
    }

    pub(crate) fn attach(&mut self) -> Attached {
        self.attach_under(&AttachRules::default())
    }

    pub(crate) fn attach_under(&mut self, rules: &AttachRules) -> Attached {
        attach_with(&mut self.conn, Origin::from_bytes([7; 16]), "here", None, rules).unwrap()
    }

    pub(crate) fn attach_by(&mut self, merge: &DatabaseRules) -> Attached {
        let origin = Origin::from_bytes([7; 16]);
        attach_with(&mut self.conn, origin, "here", Some(merge), &AttachRules::default()).unwrap()
    }

    pub(crate) fn detach(&mut self) -> detach::Detached {
        detach::detach(&mut self.conn).unwrap()
    }

    pub(crate) fn schema(&self) -> Schema {
        introspect(&self.conn).unwrap()
    }

    pub(crate) fn table(&self, name: &str) -> Table {
        self.schema().tables.into_iter().find(|table| table.name == name).unwrap()
    }

    /// The rows of a query, each as its values in SQL notation, separated by spaces.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.conn.prepare(sql).unwrap();
        let width = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..width).map(|place| notation(row.get_ref(place).unwrap()));
            found.push(values.collect::<Vec<_>>().join(" "));
        }
        found
    }

    /// Writes, and returns what the triggers logged of it.
    pub(crate) fn logged(&self, sql: &str) -> Vec<String> {
        self.write(sql);
        self.take_log()
    }

    /// The log, which is emptied: operation, table, key, and the columns in the mask. A row that got another key was deleted and
    /// inserted.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let schema = self.schema();
        let mut statement = self.conn.prepare("SELECT tbl, op, mask, ts, * FROM _sync_log ORDER BY seq").unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut log = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let (number, op, mask, ts): (i64, i64, Option<i64>, i64) =
                (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap());
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
            assert!(i128::from(ts).abs_diff(now.cast_signed()) < 60_000, "{ts} is not now ({now})");
            let table = schema.tables.iter().find(|table| table.number == number).unwrap();
            let line = |name: &str, column: &str| {
                let places = 0..table.key.len();
                let key = places.map(|place| notation(row.get_ref(format!("{column}{place}").as_str()).unwrap()));
                format!("{name} {} {}", table.name, key.collect::<Vec<_>>().join(" "))
            };
            match op {
                1 => log.push(line("insert", "k")),
                2 => log.push(line("delete", "k")),
                3 => log.push(format!("{} [{}]", line("update", "k"), masked(table, mask.unwrap()).join(" "))),
                4 => log.push(line("candidate", "k")),
                5 => log.extend([line("delete", "p"), line("insert", "k")]),
                other => panic!("operation {other}"),
            }
        }
        drop(rows);
        drop(statement);
        self.conn.execute("DELETE FROM _sync_log", []).unwrap();
        log
    }
}

fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn masked(table: &Table, mask: i64) -> Vec<String> {
    let columns = table.columns.iter().filter(|column| mask & (1 << (column.number - 1).min(61)) != 0);
    columns.map(|column| column.name.clone()).collect()
}

fn notation(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => {
            format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    }
}

//! Whether a file is the one that this node wrote last. Sequences of an origin are never used twice: a file that was
//! copied, restored or replaced issues its changes under a new origin.

use replication::{Origin, VersionVector};
use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::attach::Attached;
use crate::database::{DatabaseEvent, DatabaseOptions};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::generation;
use crate::node_schemas;
use crate::replica::wall_millis;
use crate::restore;
use crate::state::{FOLLOWERS_RETURN, FileIdentity, Remembered, StateDatabase};

/// Why a database that was restored leaves its origin.
const RESTORED: &str = "the file was restored from a backup";

/// What the state folder knows of one database.
#[derive(Debug)]
pub(super) struct Memory {
    state: StateDatabase,
    path: String,
    runtime: tokio::runtime::Handle,
    known: Option<Remembered>,
    /// The sequence up to which changes of the file's origin were given to some peer, as far as that is known.
    shown: Option<u64>,
}

impl Memory {
    /// What is known of the database; none where no state is kept.
    pub(super) fn open(
        options: &DatabaseOptions,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Option<Self>, StoreError> {
        let Some(state) = options.state.clone() else { return Ok(None) };
        let path = std::path::absolute(&options.path).unwrap_or_else(|_| options.path.clone());
        let path = path.to_string_lossy().into_owned();
        let known = runtime.block_on(state.recall(&path))?;
        Ok(Some(Self { state, path, runtime: runtime.clone(), known, shown: None }))
    }

    /// Gives the database a new origin if it is not the file, or not in the state, that is remembered.
    pub(super) fn check(
        &mut self,
        conn: &Connection,
        attached: &mut Attached,
        file: FileIdentity,
        node: &str,
    ) -> Result<Option<DatabaseEvent>, StoreError> {
        let issued = issued(conn, attached.origin)?;
        let reason = match &self.known {
            _ if attached.created => None,
            _ if restore::is_marked(conn)? => Some(RESTORED),
            None => Some("this file was attached by another node or on another machine, or the state folder was lost"),
            Some(known) if known.origin != attached.origin || known.file != file => {
                Some("the file is not the one that was here before")
            }
            Some(known) if known.sequence > issued => {
                Some("the file is an older state of the one that was here before")
            }
            Some(known) if known.boot.is_some() && known.boot != self.state.machine().boot => {
                Some("the machine went down while the database was in use, and may have lost its last changes")
            }
            Some(_) => None,
        };
        // A new origin has given nothing to anybody.
        let same = reason.is_none() && !attached.created;
        self.shown = if same { self.known.and_then(|known| known.shown) } else { Some(0) };
        let event = match reason {
            Some(reason) => {
                attached.origin = rotate_origin(conn, node, attached.origin)?;
                Some(DatabaseEvent::NewOrigin { origin: attached.origin, reason: reason.to_owned() })
            }
            None => None,
        };
        let sequence = if reason.is_some() { 0 } else { issued };
        self.remember(attached.origin, file, sequence)?;
        Ok(event)
    }

    /// Takes note of the file as it is now, in use.
    pub(super) fn remember(&mut self, origin: Origin, file: FileIdentity, sequence: u64) -> Result<(), StoreError> {
        let boot = self.state.machine().boot;
        self.note(Remembered { origin, file, sequence, shown: self.shown, boot })
    }

    /// Takes note that all that the file has issued is on the disk.
    pub(super) fn rest(&mut self, origin: Origin, file: FileIdentity, sequence: u64) -> Result<(), StoreError> {
        self.note(Remembered { origin, file, sequence, shown: self.shown, boot: None })
    }

    /// What everybody has seen who follows the database's changes and may come back; none where nobody does.
    pub(super) fn seen_by_followers(&self, database: &str) -> Result<Option<VersionVector>, StoreError> {
        let oldest = wall_millis().saturating_sub(FOLLOWERS_RETURN);
        self.runtime.block_on(self.state.seen_by_followers(database, oldest))
    }

    /// The sequence up to which changes were given to some peer, as far as that is known.
    pub(super) const fn shown(&self) -> Option<u64> {
        self.shown
    }

    /// A peer is given changes up to a sequence.
    pub(super) fn show(&mut self, sequence: u64) {
        self.shown = self.shown.max(Some(sequence));
    }

    /// The file goes on under an origin of which nobody has been given anything.
    pub(super) fn begin_origin(&mut self) {
        self.shown = Some(0);
    }

    fn note(&mut self, now: Remembered) -> Result<(), StoreError> {
        if self.known.as_ref() != Some(&now) {
            fail_point("state-before-write");
            self.runtime.block_on(self.state.remember(&self.path, &now))?;
            fail_point("state-written");
            self.known = Some(now);
        }
        Ok(())
    }
}

/// Gives a database that was restored from a backup a new origin, where nothing but its mark tells.
pub(super) fn leave_restored(
    conn: &Connection,
    attached: &mut Attached,
    node: &str,
) -> Result<Option<DatabaseEvent>, StoreError> {
    if !restore::is_marked(conn)? {
        return Ok(None);
    }
    attached.origin = rotate_origin(conn, node, attached.origin)?;
    Ok(Some(DatabaseEvent::NewOrigin { origin: attached.origin, reason: RESTORED.to_owned() }))
}

fn issued(conn: &Connection, origin: Origin) -> Result<u64, StoreError> {
    let sql = "SELECT seq FROM main._sync_origin WHERE origin = ?1";
    Ok(conn.query_row(sql, [origin.as_bytes()], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// A fresh origin: a UUIDv7.
pub fn new_origin() -> Origin {
    Origin::from_bytes(Uuid::now_v7().into_bytes())
}

/// Gives the database a new origin; what it issued under the old one stays that one's.
fn rotate_origin(conn: &Connection, node: &str, before: Origin) -> Result<Origin, StoreError> {
    let transaction = conn.unchecked_transaction()?;
    let origin = succeed(&transaction, node, before)?;
    generation::begin(&transaction)?;
    restore::unmark(&transaction)?;
    fail_point("origin-before-commit");
    transaction.commit()?;
    fail_point("origin-committed");
    Ok(origin)
}

/// Makes a fresh origin the database's own, within the caller's transaction.
pub(super) fn succeed(conn: &Connection, node: &str, before: Origin) -> Result<Origin, StoreError> {
    let origin = new_origin();
    conn.execute(
        "INSERT INTO main._sync_origin (origin, node, seq) VALUES (?1, ?2, 0)",
        params![origin.as_bytes(), node],
    )?;
    let id = conn.last_insert_rowid();
    conn.execute(
        "INSERT INTO main._sync_meta (key, value) VALUES ('origin_id', ?1) ON CONFLICT DO UPDATE SET value = excluded.value",
        [id],
    )?;
    node_schemas::succeed(conn, before, (origin, node), wall_millis())?;
    Ok(origin)
}

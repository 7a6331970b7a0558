//! How far catch-ups have come: noted as they go on, read at the next start, and forgotten when they bring nothing any more or have
//! to begin anew.

use std::hash::{Hash as _, Hasher};

use replication::{Origin, VersionVector};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Stage, exchanges, text};
use crate::error::StoreError;
use crate::replica::{Received, Replica};

/// Catch-ups that may be under way.
const MAX_SOURCES: usize = 64;

/// Where a catch-up is noted, and what is staged of it.
const STAGED: [&str; 6] =
    ["_sync_received", "_sync_batch", "_sync_staged", "_sync_page", "_sync_exchange", "_sync_began"];

/// What the source of a catch-up knew when it began, and up to where tombstones may have been gone there.
fn began(conn: &Connection, source: Origin) -> Result<Option<(VersionVector, VersionVector)>, StoreError> {
    let sql = "SELECT context, dropped FROM _sync_spool._sync_began WHERE source = ?1";
    let found: Option<(String, String)> =
        conn.query_row(sql, [source.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let read = |text: &str| {
        serde_json::from_str(text).map_err(|error| StoreError::Damaged { what: format!("_sync_began: {error}") })
    };
    found.map(|(context, dropped)| Ok((read(&context)?, read(&dropped)?))).transpose()
}

/// Takes note of that when a catch-up begins.
pub(crate) fn note_began(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    began: impl FnOnce() -> (VersionVector, VersionVector),
) -> Result<(), StoreError> {
    let received = replica.received.entry(source).or_default();
    if received.began.is_none() {
        let (context, dropped) = began();
        conn.prepare_cached(
            "INSERT OR REPLACE INTO _sync_spool._sync_began (source, context, dropped) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![source.as_bytes(), text(&context)?, text(&dropped)?])?;
        received.began = Some((context, dropped));
    }
    Ok(())
}

/// Takes note of up to where tombstones were gone at the source at its last batch.
pub(crate) fn note_dropped(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    dropped: VersionVector,
) -> Result<(), StoreError> {
    let received = replica.received.entry(source).or_default();
    if received.dropped != dropped {
        conn.prepare_cached("UPDATE _sync_spool._sync_began SET last = ?2 WHERE source = ?1")?
            .execute(params![source.as_bytes(), text(&dropped)?])?;
        received.dropped = dropped;
    }
    Ok(())
}

/// What [`note_dropped`] noted.
fn dropped(conn: &Connection, source: Origin) -> Result<VersionVector, StoreError> {
    let sql = "SELECT last FROM _sync_spool._sync_began WHERE source = ?1";
    let found: Option<Option<String>> = conn.query_row(sql, [source.as_bytes()], |row| row.get(0)).optional()?;
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|error| StoreError::Damaged { what: format!("_sync_began: {error}") })
    };
    found.flatten().map_or_else(|| Ok(VersionVector::new()), read)
}

/// Forgets a catch-up of whose rows tombstones may be gone since it began, here or at its source: it begins anew.
pub(crate) fn begin_anew(conn: &Connection, replica: &mut Replica, source: Origin) -> Result<(), StoreError> {
    exchanges::clear(conn, source)?;
    start_over(conn, replica, source)?;
    conn.prepare_cached("DELETE FROM _sync_spool._sync_began WHERE source = ?1")?.execute([source.as_bytes()])?;
    Ok(())
}

/// Forgets what is staged of a catch-up, but not which dots are to be exchanged at its end: the rest is to be asked for again.
pub(crate) fn start_over(conn: &Connection, replica: &mut Replica, source: Origin) -> Result<(), StoreError> {
    let received = replica.received.remove(&source).unwrap_or_default();
    if received.merged {
        // What is merged in part is owed to everybody who is told what this database knows. It comes as a whole.
        clear_tables(conn, &source, &STAGED[1..])?;
        replica.owed.join(&received.position);
        let sql = "UPDATE _sync_spool._sync_received SET shapes = shapes + 1 WHERE source = ?1";
        conn.execute(sql, [source.as_bytes()])?;
        return Ok(());
    }
    clear_tables(conn, &source, &STAGED[..4])?;
    let held = exchanges::held(conn, source)?;
    if !held.is_empty() {
        let position = replica.have.clone();
        Stage::open(conn, source)?.advance(conn, replica, &position, false)?;
        let began = began(conn, source)?;
        let received = replica.received.entry(source).or_default();
        (received.held, received.began) = (held, began);
    }
    Ok(())
}

/// Forgets a catch-up and what is staged of it.
pub(crate) fn clear(conn: &Connection, source: &Origin) -> Result<(), StoreError> {
    clear_tables(conn, source, &STAGED)
}

fn clear_tables(conn: &Connection, source: &Origin, tables: &[&str]) -> Result<(), StoreError> {
    for table in tables {
        conn.prepare_cached(&format!("DELETE FROM _sync_spool.{table} WHERE source = ?1"))?
            .execute([source.as_bytes()])?;
    }
    Ok(())
}

/// Reads how far catch-ups have come. What was staged for other shapes of tables may not fit any more, and what was staged
/// for another state of the file does not follow from this one: it is asked for again.
pub(crate) fn load(conn: &Connection, replica: &mut Replica) -> Result<(), StoreError> {
    let owner: Option<[u8; 16]> =
        conn.query_row("SELECT origin FROM _sync_spool._sync_owner", [], |row| row.get(0)).optional()?;
    if owner != Some(*replica.own.as_bytes()) {
        return Ok(());
    }
    let sql = "SELECT source, base, position, shapes, complete, merged FROM _sync_spool._sync_received";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (source, base, position): ([u8; 16], String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // What cannot be read only costs the catch-up a fresh start.
        let (Ok(base), Ok(position)) = (serde_json::from_str(&base), serde_json::from_str(&position)) else { continue };
        if !replica.have.covers_all(&base) {
            continue;
        }
        let (complete, merged): (bool, bool) = (row.get(4)?, row.get(5)?);
        let staged_for: i64 = row.get(3)?;
        if staged_for == shapes(replica) || staged_for == unpaged_shapes(replica) {
            let source = Origin::from_bytes(source);
            let (held, began) = (exchanges::held(conn, source)?, began(conn, source)?);
            let dropped = dropped(conn, source)?;
            replica.received.insert(source, Received { position, complete, merged, held, began, dropped });
        } else if merged {
            replica.owed.join(&position);
        }
    }
    Ok(())
}

/// What the rows of all tables look like, in one number. To a version that does not know of pages the tables seem to have other
/// shapes: it would merge the catch-up without what is in them, and asks for all of it again instead.
pub(super) fn shapes(replica: &Replica) -> i64 {
    unpaged_shapes(replica) ^ i64::MIN
}

/// The same as it is noted by a version that does not know of pages.
fn unpaged_shapes(replica: &Replica) -> i64 {
    let mut hasher = Fnv::default();
    for table in &replica.tables {
        // Columns were put in their order by their names on the wire.
        (table.table.number, &table.wire.name, &table.wire.columns, &table.wire.key).hash(&mut hasher);
    }
    hasher.finish().cast_signed()
}

/// FNV-1a: the same in every version of the program, unlike the standard library's hashers.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Forgets what is of no use, and makes the stage this database's.
pub(crate) fn clear_stale(conn: &Connection, replica: &Replica) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _sync_spool._sync_owner WHERE origin = ?1)";
    let own: bool = conn.query_row(sql, [replica.own.as_bytes()], |row| row.get(0))?;
    if !own {
        conn.execute_batch(
            "DELETE FROM _sync_spool._sync_owner; DELETE FROM _sync_spool._sync_received;
             DELETE FROM _sync_spool._sync_batch; DELETE FROM _sync_spool._sync_staged;
             DELETE FROM _sync_spool._sync_page; DELETE FROM _sync_spool._sync_exchange; DELETE FROM _sync_spool._sync_began",
        )?;
        conn.execute("INSERT INTO _sync_spool._sync_owner (origin) VALUES (?1)", [replica.own.as_bytes()])?;
        return Ok(());
    }
    // What a version that does not know of pages forgot, or began anew, has none.
    let sql = "DELETE FROM _sync_spool._sync_page \
               WHERE source NOT IN (SELECT source FROM _sync_spool._sync_received WHERE shapes = ?1)";
    conn.execute(sql, [shapes(replica)])?;
    let mut statement = conn.prepare("SELECT source, position, merged FROM _sync_spool._sync_received")?;
    let mut rows = statement.query([])?;
    let mut stale = Vec::new();
    while let Some(row) = rows.next()? {
        let source = Origin::from_bytes(row.get(0)?);
        let position = serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or_default();
        if !replica.received.contains_key(&source) {
            // What is merged in part is owed to everybody who is told what this database knows: that is remembered.
            let owed = row.get::<_, bool>(2)? && !replica.have.covers_all(&position);
            stale.push((source, owed));
        }
    }
    drop(rows);
    for (source, owed) in stale {
        let tables = if owed { &STAGED[1..] } else { &STAGED };
        clear_tables(conn, &source, tables)?;
    }
    Ok(())
}

/// Sees to it that one more catch-up has room: what comes of very many sources is given up from the oldest on, and asked for again.
pub(crate) fn make_room(conn: &Connection, replica: &mut Replica, source: Origin) -> Result<(), StoreError> {
    if replica.received.len() < MAX_SOURCES || replica.received.contains_key(&source) {
        return Ok(());
    }
    let given_up = replica.received.iter().find(|(_, received)| !received.complete && !received.merged);
    if let Some(source) = given_up.map(|(source, _)| *source) {
        replica.received.remove(&source);
        clear(conn, &source)?;
    }
    Ok(())
}

/// Forgets catch-ups that bring nothing any more, because others brought it.
pub(crate) fn clear_known(conn: &Connection, replica: &mut Replica) -> Result<(), StoreError> {
    if replica.have.covers_all(&replica.owed) {
        replica.owed = VersionVector::new();
    }
    let known = replica.received.iter().filter(|(_, received)| {
        replica.have.covers_all(&received.position) && received.held.beyond(&replica.have).is_empty()
    });
    let known: Vec<Origin> = known.map(|(source, _)| *source).collect();
    for source in known {
        replica.received.remove(&source);
        clear(conn, &source)?;
    }
    Ok(())
}

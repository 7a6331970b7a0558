//! Opening a file: it is attached, and what it holds is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension as _};

use super::folding::Folder;
use super::fresh::Fresh;
use super::identity::{self, Memory};
use super::migrating::Migration;
use super::records::Pruning;
use super::resting::Before;
use super::tidying::DotTidying;
use super::tombstones::Tombstones;
use super::{Attachment, settling, told};
use crate::app_triggers;
use crate::apply::RowCounts;
use crate::attach::{self, Attached};
use crate::baseline::Publishing;
use crate::conflicts::closing::count_open;
use crate::connection;
use crate::database::{DatabaseEvent, DatabaseOptions, TableNames};
use crate::error::StoreError;
use crate::foreign_keys::ForeignKeys;
use crate::generation;
use crate::lift::BeforeLift;
use crate::migration::Migrated;
use crate::replica::Replica;
use crate::staging;
use crate::state::FileIdentity;
use crate::write_lock::Turns;

impl Attachment {
    /// Opens and attaches the file; gives the database a new origin if the file is not the one that the state folder
    /// remembers. One that was closed `before` is not attached anew where somebody has detached it.
    pub(crate) fn open(
        options: &DatabaseOptions,
        (file, before): (FileIdentity, Option<&Before>),
        runtime: &tokio::runtime::Handle,
        closing: &Arc<AtomicBool>,
    ) -> Result<(Self, Vec<DatabaseEvent>), StoreError> {
        let mut conn = connection::open(&options.path)?;
        let mut attached = settling::attach(&mut conn, options, before.is_some(), closing)?;
        let mut events = vec![DatabaseEvent::Attached {
            created: attached.created,
            synced: attached.schema.tables.len(),
            unsynced: attached.schema.unsynced.clone(),
        }];
        events.extend(settling::worth_telling(&attached));
        let mut memory = Memory::open(options, runtime)?;
        events.extend(match &mut memory {
            Some(memory) => memory.check(&conn, &mut attached, file, &options.node)?,
            None => identity::leave_restored(&conn, &mut attached, &options.node)?,
        });
        let mut attachment = Self::over(options.clone(), conn, &attached, file, Arc::clone(closing))?;
        attachment.migrated = Migrated::of(&attached);
        attachment.retry_all();
        attachment.memory = memory;
        let issued = attachment.replica.have.get(attachment.replica.own);
        let shown = attachment.memory.as_ref().and_then(Memory::shown);
        attachment.opened_at = shown.map_or(issued, |shown| shown.min(issued));
        if let Some(before) = before {
            attachment.go_on(before, &mut events)?;
        }
        Ok((attachment, events))
    }

    pub(super) fn over(
        options: DatabaseOptions,
        conn: Connection,
        attached: &Attached,
        file: FileIdentity,
        closing: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        // The daemon folds the log when its transactions are over.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.set_prepared_statement_cache_capacity(64 + 20 * attached.schema.tables.len());
        let triggers = app_triggers::install_temp_copies(&conn, &attached.schema, &options.attach.triggers)?;
        let foreign_keys = ForeignKeys::watch(&conn, &attached.schema)?;
        let stage = options.state.as_ref().map(|state| state.stage(&options.path));
        staging::attach(&conn, stage.as_deref())?;
        let replica = Replica::load(&conn, &attached.schema, &options.rules)?;
        staging::clear_stale(&conn, &replica)?;
        let policies = told::policies(&attached.schema, &options.rules);
        let conflicts = count_open(&conn)?;
        let tombstones = Tombstones::load(&conn)?;
        let published_from = replica.have.get(replica.own);
        let generation = generation::read(&conn)?;
        let lifts = BeforeLift::count(&conn)?;
        let publish: Option<i64> = conn
            .query_row("SELECT value FROM main._sync_meta WHERE key = 'publish'", [], |row| row.get(0))
            .optional()?;
        Ok(Self {
            options,
            conn,
            replica,
            file,
            memory: None,
            opened_at: 0,
            broken: false,
            events: Vec::new(),
            closing,
            turns: Turns::default(),
            told_ahead: false,
            data_version: -1,
            more: true,
            captured_in: None,
            log_rows: 0,
            publishing: publish.map(|_| Publishing::default()),
            last_read: None,
            published_from,
            migrated: Migrated::default(),
            retry: None,
            migration: Migration::default(),
            retried: Instant::now(),
            cut_off: false,
            forgetting: Some(BTreeMap::new()),
            tables: Arc::new(told::fingerprints(&attached.schema)),
            policies: Arc::new(policies),
            names: Arc::new(TableNames::of(&attached.schema)),
            retired: Arc::new(attached.retired.clone()),
            unsynced: Arc::new(attached.schema.unsynced.clone()),
            selection: Arc::new(attached.schema.wire_selection.clone()),
            excluded_columns: Arc::new(told::excluded_columns(&attached.schema)),
            triggers: Arc::new(triggers),
            warnings: Arc::new(attached.warnings.clone()),
            foreign_keys,
            conflicts,
            pruning: Pruning::default(),
            tombstones,
            tidying: DotTidying::default(),
            generation,
            lifts,
            last_progress: Instant::now(),
            staged: 0,
            written: RowCounts::default(),
            fresh: Fresh::default(),
            folder: Folder::default(),
            put_down: None,
        })
    }

    /// Whether somebody removed our tables from the file.
    pub(crate) fn is_detached(&self) -> bool {
        matches!(attach::bookkeeping::is_attached(&self.conn), Ok(false))
    }

    /// Whether the file at `path` is attached.
    pub(crate) fn is_attached(path: &std::path::Path) -> Result<bool, StoreError> {
        attach::bookkeeping::is_attached(&connection::open(path)?)
    }
}

//! The engine: databases, peers and the listen port of one node, as a library.

mod builder;
mod conflict_routes;
mod conflicts;
mod database;
mod database_events;
mod http;
mod peering;
mod registry;
mod repeats;
mod session_driver;
mod session_events;
mod shared;
mod source;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlite_store::ConflictAction;
use sqlite_store::key_ranges::KeyRanges;
use tokio::net::TcpListener;

pub use builder::SyncEngineBuilder;
pub use database::Database;

use crate::change_event::{ApplyCallback, ApplyDecision, ChangeEvent};
use crate::conflicts::{ConflictError, ConflictFilter, ConflictRecord};
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};
use crate::status::Status;

/// What keeps an engine from doing what it is asked. Nothing is changed when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A database, the state folder or the file watch cannot be opened. Trying again helps once the cause is gone.
    #[error(transparent)]
    Store(#[from] sqlite_store::StoreError),
    /// A peer's URL is none, or of a kind that is not spoken. Trying again does not help.
    #[error("{url:?} cannot be a peer: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another program, or another sync-engine, using the port?")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Listening beyond loopback is refused: peers are not authenticated.
    #[error(
        "refused to listen on {address}: anybody on the network could read and write the databases; listen on 127.0.0.1, and reach other machines through a tunnel or a reverse proxy that authenticates"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// Two databases bear the same name. Trying again does not help.
    #[error("two databases are named {name:?}; give one of them another name")]
    DuplicateDatabase {
        /// The name.
        name: String,
    },
    /// The number for key ranges is none that a node can have. Trying again does not help.
    #[error(
        "{number} is no number for the key ranges of database {name:?}; number the nodes from 1 to {}",
        KeyRanges::MAX
    )]
    KeyRanges {
        /// The database.
        name: String,
        /// The number.
        number: u16,
    },
    /// Two tables of a database, or two columns of a table, would bear the same name on the wire. Trying again does not help.
    #[error(
        "in database {name:?} {first:?} and {second:?} would both be {remote_name:?} on the wire; give one of them another remote name"
    )]
    SameRemoteName {
        /// The database.
        name: String,
        /// The name on the wire.
        remote_name: String,
        /// What has it, as it is called here.
        first: String,
        /// What has it too.
        second: String,
    },
    /// The engine was stopped.
    #[error("the engine is stopped")]
    Stopped,
}

/// A running engine. Databases are captured and applied from the moment it is built; peers come by
/// [`SyncEngine::open_websocket`], [`SyncEngine::connect`] and [`SyncEngine::listen`].
///
/// Dropping it stops everything without ceremony, as a crash would: nothing is lost. [`SyncEngine::stop_realtime_sync`]
/// says goodbye to peers first.
pub struct SyncEngine {
    shared: Arc<Shared>,
    databases: Vec<sqlite_store::Database>,
    grace: Duration,
}

impl std::fmt::Debug for SyncEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncEngine").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl SyncEngine {
    /// A builder with nothing but defaults.
    pub fn builder() -> SyncEngineBuilder {
        SyncEngineBuilder::default()
    }

    /// Keeps a session with the peer at `url` (`ws://host:port`), from now until the engine stops; a lost link is dialed
    /// again with growing pauses. Each change that comes from it is shown to `apply_callback` inside the apply
    /// transaction. Several URLs, separated by commas as in `SYNC_ENGINE_WS_URL`, are as many peers.
    ///
    /// Returns at once; [`SyncEngine::status`] and the log tell when the peer is reached.
    ///
    /// # Errors
    /// The URL cannot be dialed at all, or the engine is stopped.
    pub async fn open_websocket(
        &self,
        url: &str,
        apply_callback: impl Fn(&ChangeEvent) -> ApplyDecision + Send + Sync + 'static,
    ) -> Result<(), EngineError> {
        self.dial(url, Some(Arc::new(apply_callback)))
    }

    /// Like [`SyncEngine::open_websocket`], with the engine's own apply callback, if it has one.
    ///
    /// # Errors
    /// The URL cannot be dialed at all, or the engine is stopped.
    pub async fn connect(&self, url: &str) -> Result<(), EngineError> {
        self.dial(url, self.shared.callback.clone())
    }

    fn dial(&self, urls: &str, callback: Option<Arc<ApplyCallback>>) -> Result<(), EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        let urls: Vec<&str> = urls.split(',').map(str::trim).collect();
        for url in &urls {
            peer_link::check_url(url)
                .map_err(|error| EngineError::Url { url: (*url).to_owned(), reason: error.to_string() })?;
        }
        for url in urls {
            let seed = fastrand::u64(..);
            let task = peering::keep_dialing(Arc::clone(&self.shared), url.to_owned(), callback.clone(), seed);
            self.shared.tracker.spawn(task);
        }
        Ok(())
    }

    /// Listens for peers and for HTTP on `address`; returns the address with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The address is none, is not this machine's, is in use, or is beyond loopback.
    pub async fn listen(&self, address: &str) -> Result<SocketAddr, EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        let bound = self.bind(address).await;
        if let Err(error) = &bound {
            self.shared.events.emit(
                Event::new(EventName::SyncError)
                    .field("kind", "listen")
                    .field("reason", error.to_string())
                    .field("remedy", "end the program that uses the port, or choose another with listen"),
            );
        }
        let (listener, local) = bound?;
        self.shared.tracker.spawn(http::serve(Arc::clone(&self.shared), listener));
        Ok(local)
    }

    async fn bind(&self, address: &str) -> Result<(TcpListener, SocketAddr), EngineError> {
        let failed = |source| EngineError::Listen { address: address.to_owned(), source };
        let resolved = tokio::net::lookup_host(address).await.map_err(failed)?.collect::<Vec<_>>();
        if let Some(address) = resolved.iter().find(|address| !address.ip().is_loopback()) {
            return Err(EngineError::NotLoopback { address: *address });
        }
        let listener = TcpListener::bind(resolved.as_slice()).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok((listener, local))
    }

    /// What there is to say of databases and peers now.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// The records of conflicts that were decided on this node, the newest first.
    ///
    /// # Errors
    /// A database that the filter names is not there, or one cannot be read.
    pub async fn conflicts(&self, filter: &ConflictFilter) -> Result<Vec<ConflictRecord>, ConflictError> {
        self.shared.conflicts(filter).await
    }

    /// The conflict record of this id: `DATABASE:NUMBER`, or a number that only one database has.
    ///
    /// # Errors
    /// There is no such record, or its database cannot be read.
    pub async fn conflict(&self, id: &str) -> Result<ConflictRecord, ConflictError> {
        self.shared.conflict(id).await
    }

    /// Writes the losing row of a conflict back, as a new change of this node that all nodes receive; the row that it
    /// replaces is kept in the record. Where the record names columns and the row is still there, only these are written.
    ///
    /// # Errors
    /// There is no such record, it was acted on before, or the table does not take the row: the error names what stands
    /// in the way. Nothing was changed then.
    pub async fn restore_conflict(&self, id: &str) -> Result<ConflictRecord, ConflictError> {
        self.shared.act_on_conflict(id, ConflictAction::Restore).await
    }

    /// Closes a conflict record and leaves the rows as they are.
    ///
    /// # Errors
    /// There is no such record, it was acted on before, or its database cannot be written. Nothing was changed then.
    pub async fn dismiss_conflict(&self, id: &str) -> Result<ConflictRecord, ConflictError> {
        self.shared.act_on_conflict(id, ConflictAction::Dismiss).await
    }

    /// Stops in order: says goodbye to peers, finishes the transactions at work, closes links and databases. Takes at most
    /// the shutdown grace (10 s unless set); what is not finished by then is rolled back, as after a crash.
    ///
    /// # Errors
    /// None at present.
    pub async fn stop_realtime_sync(self) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        shared.stop.cancel();
        shared.tracker.close();
        let end = tokio::time::Instant::now() + self.grace;
        let talks = async {
            // Sessions say goodbye and end by themselves; their links close behind them. A peer that takes nothing is
            // not waited for beyond its share.
            if tokio::time::timeout(self.grace / 4, shared.tracker.wait()).await.is_err() {
                shared.links.cancel();
                shared.tracker.wait().await;
            }
        };
        let talked = tokio::time::timeout(self.grace / 4 * 3, talks).await.is_ok();
        shared.links.cancel();
        let closing = futures::future::join_all(self.databases.iter().map(sqlite_store::Database::close));
        let clean = tokio::time::timeout_at(end, closing).await.is_ok() && talked;
        shared
            .events
            .emit(Event::new(EventName::SyncComplete).field("node", shared.node.as_str()).field("clean", clean));
        shared.events.close().await;
        shared.state.clone().close().await;
        Ok(())
    }
}

impl Drop for SyncEngine {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.links.cancel();
    }
}

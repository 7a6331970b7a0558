//! The engine: databases, peers and the listen port of one node, as a library.

mod builder;
mod changes;
mod conflict_routes;
mod conflicts;
mod database;
mod database_events;
mod databases;
mod event_routes;
mod gate;
mod health;
mod http;
mod linking;
mod liveness;
mod membership;
mod nodes;
mod page;
mod peering;
mod places;
mod reconfigure;
mod registry;
mod repeats;
mod session_driver;
mod session_events;
mod shared;
mod source;
mod verifier;
mod verify_routes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sqlite_store::key_ranges::KeyRanges;
use sqlite_store::{ConflictAction, fail_point};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use builder::SyncEngineBuilder;
pub use database::Database;
pub use liveness::SignOfLife;
pub use reconfigure::Reconfigured;
pub use verifier::{Verifier, VerifyError};

use crate::change_event::{ApplyCallback, ApplyDecision, ChangeEvent};
use crate::conflicts::{ConflictError, ConflictFilter, ConflictRecord};
use crate::engine::peering::Dialing;
use crate::engine::shared::{Dialed, Listening, Shared};
use crate::event::{Event, EventName};
use crate::status::{PeerStatus, Status};

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
    /// Listening beyond loopback is refused: nobody has to show a token or a certificate.
    #[error(
        "refused to listen on {address}: without a token or client certificates anybody on the network could read and write the databases; name a token in [auth] token_file or an authority in [tls] client_ca, or listen on 127.0.0.1"
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
    /// A database is to be added to an engine without files. Trying again does not help.
    #[error(
        "database {name:?} cannot be added: this engine was built without any, and keeps what it hears of in no file"
    )]
    Subscriber {
        /// The name.
        name: String,
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
        urls.iter().try_for_each(|url| check_url(url))?;
        for url in urls {
            let status = Arc::new(Mutex::new(PeerStatus { url: url.to_owned(), ..PeerStatus::default() }));
            let end = self.shared.stop.child_token();
            self.shared.note_dialed(Dialed { url: url.to_owned(), status: Arc::clone(&status), end: end.clone() });
            let dialing =
                Dialing { url: url.to_owned(), callback: callback.clone(), status, end, seed: fastrand::u64(..) };
            self.shared.tracker.spawn(peering::keep_dialing(Arc::clone(&self.shared), dialing));
        }
        Ok(())
    }

    /// Keeps a session with another engine of this process until either stops: what the two have in common is kept in step without any
    /// network. To be called on one of the two, once.
    ///
    /// Returns at once; [`SyncEngine::status`] and the log tell when they have met.
    ///
    /// # Errors
    /// One of the two is stopped.
    pub fn link(&self, other: &Self) -> Result<(), EngineError> {
        if self.shared.stop.is_cancelled() || other.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        linking::link(&self.shared, &other.shared);
        Ok(())
    }

    /// Somebody to ask what a database of this engine holds, and what it knows.
    pub fn verifier(&self, database: impl Into<String>) -> Verifier {
        Verifier::new(Arc::clone(&self.shared), database.into())
    }

    /// Ends the sessions with the peer at `url` that [`SyncEngine::open_websocket`] or [`SyncEngine::connect`] opened, and does not
    /// dial it again. False if it was not dialed. A session that the peer opened goes on.
    pub fn disconnect(&self, url: &str) -> bool {
        let ends = self.shared.forget_dialed(url);
        ends.iter().for_each(CancellationToken::cancel);
        !ends.is_empty()
    }

    /// Listens for peers and for HTTP on `address`; returns the address with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The address is none, is not this machine's, is in use, or is beyond loopback while nobody has to show a token or a
    /// certificate.
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
        let end = self.shared.stop.child_token();
        let served = self.shared.tracker.spawn(http::serve(Arc::clone(&self.shared), listener, end.clone()));
        let listening = Listening { local, end, served };
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listening);
        Ok(local)
    }

    /// Does not listen on an address any more that [`SyncEngine::listen`] returned. Peers that came by it stay. False if it was not
    /// listened on.
    pub fn stop_listening(&self, address: SocketAddr) -> bool {
        self.take_listener(address).is_some()
    }

    /// The addresses that are listened on.
    fn listened_on(&self) -> Vec<SocketAddr> {
        let listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().map(|listening| listening.local).collect()
    }

    /// The same as [`SyncEngine::stop_listening`], until the port is free.
    async fn close_listener(&self, address: SocketAddr) {
        if let Some(listening) = self.take_listener(address) {
            // A panic in it has closed the port as well, and is told where it happened.
            let _ = listening.served.await;
        }
    }

    fn take_listener(&self, address: SocketAddr) -> Option<Listening> {
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let place = listeners.iter().position(|listening| listening.local == address)?;
        let listening = listeners.swap_remove(place);
        listening.end.cancel();
        Some(listening)
    }

    /// Starts a database beside those that are there; peers are told of it.
    ///
    /// # Errors
    /// There is one of its name, what is said of it cannot be, the engine was built without databases, or it is stopped. Nothing was
    /// changed then.
    pub fn add_database(&self, database: Database) -> Result<(), EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        if self.shared.databases.is_subscriber() {
            return Err(EngineError::Subscriber { name: database.name });
        }
        self.shared.databases.start(database)
    }

    /// Closes a database and tells peers that it is gone. It stays attached: what applications write meanwhile is kept in the file
    /// and sent when it is added again. False if there is none of this name.
    pub async fn remove_database(&self, name: &str) -> bool {
        self.shared.databases.remove(name).await
    }

    /// Writes an event of the program that the engine is part of into the log, and shows it to the hook.
    pub fn log(&self, event: Event) {
        self.shared.events.emit(event);
    }

    async fn bind(&self, address: &str) -> Result<(TcpListener, SocketAddr), EngineError> {
        let failed = |source| EngineError::Listen { address: address.to_owned(), source };
        let resolved = tokio::net::lookup_host(address).await.map_err(failed)?.collect::<Vec<_>>();
        let beyond = resolved.iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = beyond.filter(|_| !self.shared.access().is_closed()) {
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
        fail_point("stop-begun");
        shared.stop.cancel();
        shared.tracker.close();
        let grace = *shared.grace.lock().unwrap_or_else(PoisonError::into_inner);
        let end = tokio::time::Instant::now() + grace;
        let talks = async {
            // Sessions say goodbye and end by themselves; their links close behind them. A peer that takes nothing is
            // not waited for beyond its share.
            if tokio::time::timeout(grace / 4, shared.tracker.wait()).await.is_err() {
                shared.links.cancel();
                shared.tracker.wait().await;
            }
        };
        let talked = tokio::time::timeout(grace / 4 * 3, talks).await.is_ok();
        shared.links.cancel();
        fail_point("stop-links-closed");
        let clean = tokio::time::timeout_at(end, shared.databases.close()).await.is_ok() && talked;
        fail_point("stop-databases-closed");
        shared
            .events
            .emit(Event::new(EventName::SyncComplete).field("node", shared.node.as_str()).field("clean", clean));
        shared.events.close().await;
        shared.state.clone().close().await;
        Ok(())
    }
}

fn check_url(url: &str) -> Result<(), EngineError> {
    peer_link::check_url(url)
        .map(drop)
        .map_err(|error| EngineError::Url { url: peer_link::without_secret(url), reason: error.to_string() })
}

impl Drop for SyncEngine {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.links.cancel();
    }
}

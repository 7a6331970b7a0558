//! The change stream: what everybody who follows changes is shown, over HTTP. Owns the order of changes, what is read and how it is
//! sent; must not touch what sessions with peers do.
//!
//! A follower is a position, not a queue: when a database knows more than it, what it lacks is read as for a peer. So nothing can
//! be lost between the two, and a slow client costs no memory.

mod course;
mod follower;
mod outlet;
mod routes;
mod row_events;

use std::sync::Arc;

use replication::{Batch, Dot, Origin, VersionVector};
use sqlite_store::{FollowedChange, StateDatabase, StoreError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use course::{Course, Piece, Position, Run};

pub(super) use course::Scope;
pub(super) use routes::routes;
pub(super) use row_events::operation;

/// Clients that may follow at a time: each has some rows in memory.
const FOLLOWERS: usize = 64;

/// The course, as it is kept in the state folder, and the places of those who follow.
#[derive(Debug)]
pub(crate) struct Changes {
    state: StateDatabase,
    /// None until it is needed, and after it could not be kept: what is noted counts.
    course: Mutex<Option<Course>>,
    places: Arc<Semaphore>,
    /// Everybody who is shown changes holds one.
    shown: Arc<()>,
    /// Counts up when everybody who follows some database begins anew.
    anew: watch::Sender<u64>,
}

impl Changes {
    pub(crate) fn new(state: StateDatabase) -> Self {
        Self {
            state,
            course: Mutex::new(None),
            places: Arc::new(Semaphore::new(FOLLOWERS)),
            shown: Arc::default(),
            anew: watch::Sender::new(0),
        }
    }

    /// A place for one more follower, if there is one.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// How many are shown changes.
    pub(crate) fn followers(&self) -> usize {
        Arc::strong_count(&self.shown) - 1
    }

    /// Does something with the course, and keeps what has become of it.
    async fn with<T>(&self, act: impl FnOnce(&mut Course) -> (T, FollowedChange)) -> Result<T, StoreError> {
        let mut place = self.course.lock().await;
        let mut course = match place.take() {
            Some(course) => course,
            None => {
                let (databases, steps) = self.state.followed().await?;
                Course::new(databases, steps)
            }
        };
        let (done, change) = act(&mut course);
        if !change.is_empty() {
            self.state.note_followed(&change).await?;
        }
        *place = Some(course);
        Ok(done)
    }

    /// The same where nothing becomes of it.
    async fn look<T>(&self, act: impl FnOnce(&Course) -> T) -> Result<T, StoreError> {
        self.with(|course| (act(course), FollowedChange::default())).await
    }

    /// Takes note of what a database knows.
    async fn note(&self, database: &str, source: Origin, have: &VersionVector, now: i64) -> Result<(), StoreError> {
        self.with(|course| ((), course.note(database, source, have, now))).await?;
        self.with(|course| ((), course.touch(database, now))).await
    }

    /// Rows of a database were merged that had waited: they bear names that everybody has gone past. Whoever follows begins anew.
    pub(crate) async fn merged_late(&self, database: &str, now: i64) -> Result<(), StoreError> {
        self.with(|course| ((), course.begin_anew(database, now))).await?;
        self.anew.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    async fn after(&self, dot: Dot, scope: &Scope) -> Result<Option<Position>, StoreError> {
        self.look(|course| course.after(dot, scope)).await
    }

    async fn next(&self, position: &Position) -> Result<Option<Run>, StoreError> {
        self.look(|course| course.next(position)).await
    }

    /// Notes what was read of a database and moves a follower on, unless the database has lost what it was shown, or may have forgotten
    /// that it was deleted.
    async fn advance(
        &self,
        position: &mut Position,
        database: &str,
        (batch, reached): (&Batch, &VersionVector),
        now: i64,
    ) -> Result<Option<Vec<Piece>>, StoreError> {
        self.with(|course| {
            if course.has_lost(position, database) {
                return (None, FollowedChange::default());
            }
            let change = course.note(database, batch.source, &batch.context, now);
            if course.has_lost(position, database) {
                return (None, change);
            }
            course.join(position, database);
            if course.misses(position, database, &batch.dropped) {
                return (None, change);
            }
            (Some(course.advance(position, database, reached)), change)
        })
        .await
    }
}

//! One follower: waits until a database knows more than it was shown, and reads that. Owns its position; must not know how it is sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::{Batch, Dot, DotSet, MAX_SEQUENCE, VersionVector};
use sqlite_store::{BatchLimits, DatabaseState, Phase, StoreError};
use tokio::sync::watch;

use super::course::{Position, Run, Scope};
use super::row_events;
use crate::change_event::ChangeEvent;
use crate::engine::databases::Member;
use crate::engine::session_events;
use crate::engine::shared::{Shared, wall_millis};
use crate::engine::source::Source;

/// What is read at a time: it is in memory until the client has taken it.
const LIMITS: BatchLimits = BatchLimits { rows: 1_000, bytes: 512 << 10, passed_on: false };

/// How long databases may take to open before a client begins without them, and to give the rows that were there before attach their
/// names: what has no name cannot be told to have been seen. What is not named by then is shown as it is.
const OPENING: Duration = Duration::from_secs(10);

/// The pause before what could not be read is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long a database that is not here is waited for: one of which something else is configured is closed and started again.
const AWAY: Duration = Duration::from_secs(10);

/// How long a database that cannot be read is waited for: a program may hold its lock for minutes.
const UNREADABLE: Duration = Duration::from_secs(600);

/// Where a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// With what comes from now on.
    Now,
    /// With everything as it stands.
    Begin,
    /// After the change that it saw last.
    Dot(Dot),
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Begin => f.write_str("begin"),
            Self::Dot(dot) => dot.fmt(f),
        }
    }
}

/// Why a client cannot be shown what it asks for, or not any further.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has to begin anew.
    Gone(String),
    /// It is to try again later.
    NotNow(String),
    /// The state folder cannot be read or written.
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a client is shown at a time.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) events: Vec<ChangeEvent>,
    /// From where it would go on then; none where nothing is different.
    pub(super) at: Option<Since>,
}

/// Databases by name, and news of them.
type Watched = BTreeMap<String, watch::Receiver<Arc<DatabaseState>>>;

/// A client's position, and what it waits for.
pub(super) struct Follower {
    shared: Arc<Shared>,
    scope: Scope,
    /// Only of this table.
    table: Option<String>,
    position: Position,
    /// Whether the last read was cut short: the next goes no further than one step of the course, so that it comes to an end.
    bounded: bool,
    /// Since when the database is not here that is next.
    away: Option<Instant>,
    /// The database that was read last.
    turn: String,
}

impl Follower {
    /// A follower where the client is to begin.
    pub(super) async fn begin(
        shared: Arc<Shared>,
        scope: Scope,
        table: Option<String>,
        since: Since,
    ) -> Result<Self, Refused> {
        let opened = opened(&shared, &scope).await;
        let changes = &shared.changes;
        for (source, state) in &opened {
            if let Some(origin) = state.origin {
                changes.note(source.name(), origin, &state.have, wall_millis()).await?;
            }
        }
        let dropped =
            |(source, state): &(Source, Arc<DatabaseState>)| (source.name().to_owned(), state.dropped.clone());
        let position = match since {
            Since::Now => changes.look(|course| course.end(&scope)).await?,
            Since::Begin => {
                if let Some((name, word)) = closed(&shared, &scope) {
                    return Err(Refused::NotNow(format!(
                        "database {name:?} is {word}, so that not everything can be shown; see status, try again, or follow others \
                         by their names, as database=NAME"
                    )));
                }
                changes.look(|course| course.beginning(&scope, &opened.iter().map(dropped).collect())).await?
            }
            Since::Dot(dot) => changes.after(dot, &scope).await?.ok_or_else(|| {
                Refused::Gone(format!(
                    "what came after {dot} cannot be told any more, or it was never shown by this node"
                ))
            })?,
        };
        Ok(Self { shared, scope, table, position, bounded: false, away: None, turn: String::new() })
    }

    /// From where a client that was shown nothing yet would go on; none where that cannot be said.
    pub(super) async fn at(&self) -> Option<Since> {
        let (scope, position) = (&self.scope, &self.position);
        if position.is_empty() {
            return Some(Since::Begin);
        }
        let last = |course: &super::Course| course.last(scope).filter(|_| course.end(scope) == *position);
        self.shared.changes.look(last).await.ok().flatten().map(Since::Dot)
    }

    /// Waits for what is next. What is shown may be nothing: all of it is of other tables.
    pub(super) async fn next(&mut self) -> Result<Shown, Refused> {
        loop {
            let mut sources_changed = self.shared.databases.changed();
            let mut anew = self.shared.changes.anew.subscribe();
            if let Some(database) = self.shared.changes.look(|course| course.lost_of(&self.position)).await? {
                return Err(lost(&database));
            }
            let mut watched = self.watch();
            match self.due(&mut watched).await? {
                Some(run) => match self.read(run).await? {
                    Some(shown) => return Ok(shown),
                    None => tokio::time::sleep(RETRY).await,
                },
                None => {
                    let states = async {
                        if watched.is_empty() {
                            return std::future::pending().await;
                        }
                        let states = watched.values_mut().map(|state| Box::pin(state.changed()));
                        futures::future::select_all(states).await.0
                    };
                    tokio::select! {
                        _ = sources_changed.changed() => {}
                        _ = anew.changed() => {}
                        // A database that is closed is among the others for another moment.
                        changed = states => if changed.is_err() {
                            tokio::time::sleep(RETRY).await;
                        },
                    }
                }
            }
        }
    }

    fn watch(&self) -> Watched {
        members(&self.shared, &self.scope)
            .map(|member| (member.source.name().to_owned(), member.source.state()))
            .collect()
    }

    /// What is to be read: what others were shown and this one was not, or else what a database knows that nobody was shown.
    async fn due(&self, watched: &mut Watched) -> Result<Option<Run>, Refused> {
        let news = |(name, state): (&String, &mut watch::Receiver<Arc<DatabaseState>>)| {
            let state = state.borrow_and_update();
            let attached = state.phase == Phase::Attached;
            (attached && !self.position.covers(name, &state.have)).then(|| name.clone())
        };
        // All of them are marked as seen.
        let news: Vec<String> = watched.iter_mut().filter_map(news).collect();
        if let Some(run) = self.shared.changes.next(&self.position).await? {
            return Ok(Some(run));
        }
        let nothing = VersionVector::new;
        let unbounded = |database| Run { database, until: nothing(), first_step: nothing(), is_last: true };
        // By turns: one that is written without a pause always has news.
        let next = news.iter().position(|name| *name > self.turn).unwrap_or(0);
        Ok(news.into_iter().nth(next).map(unbounded))
    }

    /// Reads what is next of a database and moves on; none if that cannot be done now.
    async fn read(&mut self, run: Run) -> Result<Option<Shown>, Refused> {
        let Run { database, until, first_step, is_last } = run;
        let Some(member) = members(&self.shared, &self.scope).find(|member| member.source.name() == database) else {
            return self.miss(&database, AWAY, "is not here any more");
        };
        self.turn.clone_from(&database);
        let several = until != first_step;
        let bound = match self.bounded {
            _ if until.is_empty() => None,
            true => Some(first_step),
            false if is_last => None,
            false => Some(until),
        };
        let from = self.position.of(&database);
        // A database that cannot be read says so itself, and must not keep others from being shown for ever.
        let Ok(Some(batch)) = member.source.read(from, Arc::new(beyond(bound.as_ref())), LIMITS).await else {
            return self.miss(&database, UNREADABLE, "cannot be read, as status tells");
        };
        self.away = None;
        let state = member.source.state().borrow().clone();
        // Read before the file became another one, or while it does.
        if state.origin != Some(batch.source) {
            return Ok(None);
        }
        let all_of_it = self.bounded || batch.is_complete();
        self.bounded = !batch.is_complete() || (self.bounded && several);
        let reached = bound.as_ref().map_or_else(|| batch.to.clone(), |bound| batch.to.met(bound));
        let moved =
            self.shared.changes.advance(&mut self.position, &database, (&batch, &reached), wall_millis()).await?;
        let Some(pieces) = moved else { return Err(lost(&database)) };
        if pieces.is_empty() && all_of_it {
            // A power cut may have taken what others were shown; peers send it again.
            return Ok(None);
        }
        let at = pieces.last().map(|piece| Since::Dot(Dot { origin: piece.origin, sequence: piece.until }));
        Ok(Some(Shown { events: self.events(&database, &state, &batch, &pieces), at }))
    }

    fn events(
        &self,
        database: &str,
        state: &DatabaseState,
        batch: &Batch,
        pieces: &[super::Piece],
    ) -> Vec<ChangeEvent> {
        let mut events = row_events::events(&self.shared.node, database, state, batch, pieces);
        if let Some(table) = &self.table {
            events.retain(|event| event.table.eq_ignore_ascii_case(table));
        }
        events
    }

    /// Nothing can be had of the database; it is waited for so long.
    fn miss(&mut self, database: &str, patience: Duration, why: &str) -> Result<Option<Shown>, Refused> {
        if self.away.get_or_insert_with(Instant::now).elapsed() < patience {
            return Ok(None);
        }
        Err(Refused::Gone(format!(
            "database {database:?} {why}, and had changes that were not shown yet; others can be followed by their names"
        )))
    }

    /// Tells in the log that the state folder fails, now and then.
    pub(super) fn tell(shared: &Shared, error: &StoreError) {
        if shared.told.is_news(&format!("changes {error}")) {
            session_events::store_failed(&shared.events, error);
        }
    }
}

/// Why nobody can go on with a database.
fn lost(database: &str) -> Refused {
    Refused::Gone(format!(
        "database {database:?} has changes that cannot be shown: its file was restored or replaced, rows that had waited were \
         merged, or deletions were forgotten that were not shown yet"
    ))
}

/// The databases with files that are followed.
fn members(shared: &Shared, scope: &Scope) -> impl Iterator<Item = Member> {
    let members = shared.databases.members().into_iter();
    members.filter(|member| scope.has(member.source.name()) && matches!(member.source, Source::File(_)))
}

/// The databases that are open, once those that are opened just now are.
async fn opened(shared: &Shared, scope: &Scope) -> Vec<(Source, Arc<DatabaseState>)> {
    let all = members(shared, scope).map(|member| async move {
        let mut states = member.source.state();
        let until = tokio::time::Instant::now() + OPENING;
        let opened = states.wait_for(|state| !matches!(state.phase, Phase::Opening | Phase::Migrating));
        if tokio::time::timeout_at(until, opened).await.ok()?.ok()?.phase != Phase::Attached {
            return None;
        }
        member.source.publish().await;
        let named = states.wait_for(|state| !state.publishing || state.phase != Phase::Attached);
        let _ = tokio::time::timeout_at(until, named).await;
        let state = states.borrow().clone();
        Some((member.source, state))
    });
    futures::future::join_all(all).await.into_iter().flatten().collect()
}

/// A database that has a file which cannot be read now, and how it stands.
fn closed(shared: &Shared, scope: &Scope) -> Option<(String, &'static str)> {
    members(shared, scope).find_map(|member| {
        let word = match member.source.state().borrow().phase {
            Phase::Opening => "being opened",
            Phase::Migrating => "being migrated",
            Phase::Failed { .. } => "stopped by an error",
            Phase::Attached | Phase::Missing => return None,
        };
        Some((member.source.name().to_owned(), word))
    })
}

/// All that lies beyond a vector, of the origins that it knows.
fn beyond(bound: Option<&VersionVector>) -> DotSet {
    let mut beyond = DotSet::new();
    for (origin, sequence) in bound.into_iter().flat_map(VersionVector::iter) {
        beyond.insert(origin, sequence + 1, MAX_SEQUENCE);
    }
    beyond
}

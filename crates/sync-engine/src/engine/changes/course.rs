//! The course: the one order in which everybody who follows changes is shown them, so that the name of the last change that a
//! client saw tells which others it has seen. Owns that order and the positions in it; knows neither rows nor files.
//!
//! The course is a list of steps. Each raises the version vector of one database to what that knew when somebody who had seen
//! everything looked again; within a step changes go by origin and sequence. A client that saw a change has seen all steps before
//! its own, and of its own all that goes before it, in whatever pieces, and from whichever connection, it was shown them. Steps
//! are noted before what is in them is shown. While nobody follows there are none.
//!
//! Before all steps comes what databases knew when they were first followed: only who asks for everything is shown that.

use std::collections::{BTreeMap, VecDeque};

use replication::{Dot, Origin, VersionVector};
use sqlite_store::{FOLLOWERS_RETURN, FollowedChange, FollowedDatabase, FollowedStep};

/// Steps that are kept.
const STEPS: usize = 10_000;

/// For how long steps are kept, in milliseconds: seven days, as deletions are remembered for who follows.
const AGE: i64 = FOLLOWERS_RETURN;

/// How long a step goes on, in milliseconds, and how long it may not be known that somebody follows: an hour.
const HOUR: i64 = 3_600_000;

/// The course of one node.
#[derive(Debug, Default)]
pub(super) struct Course {
    databases: BTreeMap<String, Followed>,
    steps: VecDeque<Step>,
    next: i64,
}

/// A database that is or was followed.
#[derive(Debug, Clone)]
struct Followed {
    first: VersionVector,
    /// What the steps begin with.
    based: VersionVector,
    /// What they end with.
    head: VersionVector,
    /// Changes from which nobody can go on.
    lost: VersionVector,
    source: Origin,
    /// When somebody last began to follow it.
    at: i64,
    /// What tells the last time that it lost what it had from others: the number after that step's.
    losses: i64,
}

#[derive(Debug)]
struct Step {
    number: i64,
    at: i64,
    database: String,
    /// Origins in their order, each with the sequence that is reached.
    raised: Vec<(Origin, u64)>,
    lost: bool,
}

/// What a client has seen of each database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position(BTreeMap<String, Seen>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    vector: VersionVector,
    /// Deletions that were forgotten before it was shown anything.
    excused: VersionVector,
    losses: i64,
}

impl Position {
    /// What it has seen of a database.
    pub(super) fn of(&self, database: &str) -> VersionVector {
        self.0.get(database).map(|seen| seen.vector.clone()).unwrap_or_default()
    }

    /// Whether it has seen nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(|seen| seen.vector.is_empty())
    }

    /// Whether it has seen everything that a database knows.
    pub(super) fn covers(&self, database: &str, have: &VersionVector) -> bool {
        self.0.get(database).is_some_and(|seen| seen.vector.covers_all(have))
    }
}

/// Which databases are followed: one, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope(pub(crate) Option<String>);

impl Scope {
    pub(crate) fn has(&self, database: &str) -> bool {
        self.0.as_deref().is_none_or(|only| only == database)
    }
}

/// The next that is to be shown, of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) database: String,
    /// Up to where, before something of another database is to be shown; and up to the end of the first step.
    pub(super) until: VersionVector,
    pub(super) first_step: VersionVector,
    /// Whether nothing of another database follows.
    pub(super) is_last: bool,
}

/// Changes that are to be shown now: those of `origin` after `after` and up to `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) origin: Origin,
    pub(super) after: u64,
    pub(super) until: u64,
    /// Whether they were there before the database was first followed.
    pub(super) replayed: bool,
}

/// A part of the course: the database, whether it is from before the first step, and what it raises.
type Stage<'a> = (&'a str, bool, Box<dyn Iterator<Item = (Origin, u64)> + 'a>);

impl Course {
    /// The course as it was noted.
    pub(super) fn new(databases: Vec<FollowedDatabase>, steps: Vec<FollowedStep>) -> Self {
        let mut course = Self::default();
        for FollowedDatabase { name, first, based, lost, source, at } in databases {
            let head = based.clone();
            course.databases.insert(name, Followed { first, based, head, lost, source, at, losses: 0 });
        }
        for FollowedStep { number, at, database, raised, lost } in steps {
            if let Some(known) = course.databases.get_mut(&database) {
                known.head.join(&raised);
                if lost {
                    known.losses = number + 1;
                }
            }
            course.next = number + 1;
            course.steps.push_back(Step { number, at, database, raised: raised.iter().collect(), lost });
        }
        course
    }

    /// Takes note of what a database knows, by its origin `source`; answers what is to be kept of that.
    pub(super) fn note(&mut self, database: &str, source: Origin, have: &VersionVector, now: i64) -> FollowedChange {
        let mut change = FollowedChange::default();
        let Some(known) = self.databases.get_mut(database) else {
            let [first, based, head] = [have; 3].map(Clone::clone);
            let known = Followed { first, based, head, lost: VersionVector::new(), source, at: now, losses: 0 };
            change.databases.push(record(database, &known));
            self.databases.insert(database.to_owned(), known);
            return change;
        };
        if known.source != source {
            if !have.covers_all(&known.head) {
                return self.lose(database, source, have, now);
            }
            known.source = source;
            change.databases.push(record(database, known));
        }
        let raised: Vec<(Origin, u64)> =
            have.iter().filter(|(origin, sequence)| known.head.get(*origin) < *sequence).collect();
        // What was read before others looked again may be older.
        let (Some((least, _)), true) = (raised.first().copied(), have.covers_all(&known.head)) else { return change };
        known.head.join(have);
        // Two steps whose changes go by origin and sequence together are one.
        let fits = |last: &Step| {
            last.database == database
                && !last.lost
                && now.saturating_sub(last.at) < HOUR
                && last.raised.last().is_some_and(|(it, _)| *it <= least)
        };
        match self.steps.back_mut().filter(|last| fits(last)) {
            Some(last) => {
                last.raised.pop_if(|(origin, _)| *origin == least);
                last.raised.extend(raised);
            }
            None => self.push(database, raised, false, now),
        }
        change.steps.extend(self.steps.back().map(Step::record));
        self.forget(now, &mut change);
        change
    }

    fn push(&mut self, database: &str, raised: Vec<(Origin, u64)>, lost: bool, now: i64) {
        self.steps.push_back(Step { number: self.next, at: now, database: database.to_owned(), raised, lost });
        self.next += 1;
    }

    /// A database has changed in a way that it cannot be read what was shown to nobody: everybody begins anew.
    pub(super) fn begin_anew(&mut self, database: &str, now: i64) -> FollowedChange {
        let Some(Followed { source, head, .. }) = self.databases.get(database).cloned() else {
            return FollowedChange::default();
        };
        self.lose(database, source, &head, now)
    }

    /// The database goes on from what it has now; nobody else can.
    fn lose(&mut self, database: &str, source: Origin, have: &VersionVector, now: i64) -> FollowedChange {
        let mut change = FollowedChange { without: Some(database.to_owned()), ..FollowedChange::default() };
        self.steps.retain(|step| step.database != database);
        self.push(database, Vec::new(), true, now);
        change.steps.extend(self.steps.back().map(Step::record));
        let mark = self.next;
        if let Some(known) = self.databases.get_mut(database) {
            known.lost.join(&known.head);
            known.lost.join(have);
            for vector in [&mut known.first, &mut known.based, &mut known.head] {
                vector.clone_from(have);
            }
            known.source = source;
            known.losses = mark;
            change.databases.push(record(database, known));
        }
        change
    }

    /// Forgets the oldest steps: nobody can go on from a change in them any more.
    fn forget(&mut self, now: i64, change: &mut FollowedChange) {
        let old = |step: &Step| now.saturating_sub(step.at) > AGE;
        if self.steps.len() <= STEPS && !self.steps.front().is_some_and(old) {
            return;
        }
        // A good deal at once: each time is a write for every database.
        let surplus = if self.steps.len() > STEPS { self.steps.len() - STEPS / 4 * 3 } else { 0 };
        let count = surplus.max(self.steps.iter().take_while(|step| old(step)).count());
        for step in self.steps.drain(..count) {
            if let Some(known) = self.databases.get_mut(&step.database) {
                step.raised.iter().for_each(|(origin, sequence)| known.based.raise(*origin, *sequence));
            }
        }
        change.below = Some(self.steps.front().map_or(self.next, |step| step.number));
        change.databases = self.databases.iter().map(|(name, known)| record(name, known)).collect();
    }

    /// The first database that has lost something that a client has seen who is there.
    pub(super) fn lost_of(&self, position: &Position) -> Option<String> {
        position.0.keys().find(|database| self.has_lost(position, database)).cloned()
    }

    /// Somebody begins to follow a database.
    pub(super) fn touch(&mut self, database: &str, now: i64) -> FollowedChange {
        let mut change = FollowedChange::default();
        if let Some(known) = self.databases.get_mut(database).filter(|known| now.saturating_sub(known.at) > HOUR) {
            known.at = now;
            change.databases.push(record(database, known));
        }
        change
    }

    /// Whether deletions that are forgotten may concern a client: it may have been shown rows that are gone, and will not be told.
    pub(super) fn misses(&self, position: &Position, database: &str, dropped: &VersionVector) -> bool {
        let (Some(known), Some(seen)) = (self.databases.get(database), position.0.get(database)) else { return false };
        // What was deleted before anybody followed, nobody was shown.
        dropped.iter().any(|(origin, sequence)| {
            sequence > seen.vector.get(origin).max(seen.excused.get(origin)).max(known.first.get(origin))
        })
    }

    /// Whether a client that is there has seen something that a database has lost since.
    pub(super) fn has_lost(&self, position: &Position, database: &str) -> bool {
        let losses = |known: &Followed| position.0.get(database).is_some_and(|seen| seen.losses != known.losses);
        self.databases.get(database).is_some_and(losses)
    }

    /// The position of who has seen everything.
    pub(super) fn end(&self, scope: &Scope) -> Position {
        self.position(scope, |known| known.head.clone())
    }

    /// The position of who has seen nothing of the databases that are wanted, of which each has forgotten deletions up to there.
    pub(super) fn beginning(&self, scope: &Scope, wanted: &BTreeMap<String, VersionVector>) -> Position {
        let mut position = self.end(scope);
        for (name, seen) in &mut position.0 {
            if let Some(dropped) = wanted.get(name) {
                seen.vector = VersionVector::new();
                seen.excused.clone_from(dropped);
            }
        }
        position
    }

    fn position(&self, scope: &Scope, vector: impl Fn(&Followed) -> VersionVector) -> Position {
        let followed = self.databases.iter().filter(|(name, _)| scope.has(name));
        Position(
            followed
                .map(|(name, known)| {
                    (name.clone(), Seen { vector: vector(known), losses: known.losses, ..Seen::default() })
                })
                .collect(),
        )
    }

    /// Has a client see a database from now on that it was not shown before.
    pub(super) fn join(&self, position: &mut Position, database: &str) {
        if let Some(known) = self.databases.get(database).filter(|_| !position.0.contains_key(database)) {
            let seen = Seen { vector: known.first.clone(), losses: known.losses, ..Seen::default() };
            position.0.insert(database.to_owned(), seen);
        }
    }

    /// The position of a client that has seen a change last; none where that cannot be told.
    pub(super) fn after(&self, dot: Dot, scope: &Scope) -> Option<Position> {
        let is_lost = |database: &str| self.databases.get(database).is_none_or(|known| known.lost.covers(dot));
        let mut position = self.position(scope, |known| known.based.clone());
        for (place, step) in self.steps.iter().enumerate().filter(|(_, step)| scope.has(&step.database)) {
            let Some(Seen { vector, .. }) = position.0.get_mut(&step.database) else { continue };
            let (Dot { origin, sequence }, here) = (dot, step.raised.iter().find(|(origin, _)| *origin == dot.origin));
            let is_here =
                here.is_some_and(|(_, until)| (vector.get(origin)..*until).contains(&(sequence.wrapping_sub(1))));
            if !is_here {
                step.raised.iter().for_each(|(origin, until)| vector.raise(*origin, *until));
                continue;
            }
            step.raised
                .iter()
                .filter(|(other, _)| *other < origin)
                .for_each(|(other, until)| vector.raise(*other, *until));
            vector.raise(origin, sequence);
            let later = self.steps.iter().skip(place + 1).any(|step| step.lost && scope.has(&step.database));
            return (!later && !is_lost(&step.database)).then_some(position);
        }
        self.within_first(dot, scope).filter(|_| !self.steps.iter().any(|step| step.lost && scope.has(&step.database)))
    }

    /// The position of a client that was shown everything, and has seen a change last that was there before the first step.
    fn within_first(&self, dot: Dot, scope: &Scope) -> Option<Position> {
        let mut found = false;
        let mut position = self.position(scope, |_| VersionVector::new());
        for (name, Seen { vector, .. }) in &mut position.0 {
            let Some(known) = self.databases.get(name) else { continue };
            if known.first.covers(dot) && dot.sequence > 0 && !known.lost.covers(dot) {
                *vector = known.first.iter().filter(|(origin, _)| *origin < dot.origin).collect();
                vector.raise(dot.origin, dot.sequence);
                found = true;
                break;
            }
            vector.clone_from(&known.first);
        }
        found.then_some(position)
    }

    /// A change after which a client goes on from where everybody is who has seen everything; none where nothing was ever there.
    pub(super) fn last(&self, scope: &Scope) -> Option<Dot> {
        let step = self.steps.iter().rev().find(|step| scope.has(&step.database) && !step.raised.is_empty());
        let of_step = step.and_then(|step| step.raised.last().copied());
        let of_first = || {
            let followed = self.databases.iter().rev().filter(|(name, _)| scope.has(name));
            followed.flat_map(|(_, known)| known.first.iter().last()).next()
        };
        let (origin, sequence) = of_step.or_else(of_first)?;
        let dot = Dot { origin, sequence };
        self.after(dot, scope).filter(|position| *position == self.end(scope)).map(|_| dot)
    }

    /// All of the course, in its order.
    fn stages(&self) -> impl Iterator<Item = Stage<'_>> {
        let first = self.databases.iter();
        let first = first.map(|(name, known)| -> Stage<'_> { (name.as_str(), true, Box::new(known.first.iter())) });
        let based = self.databases.iter();
        let based = based.map(|(name, known)| -> Stage<'_> { (name.as_str(), false, Box::new(known.based.iter())) });
        let steps = self.steps.iter();
        let steps = steps.map(|it| -> Stage<'_> { (it.database.as_str(), false, Box::new(it.raised.iter().copied())) });
        first.chain(based).chain(steps)
    }

    /// What a client is to be shown next; none if it has seen everything.
    pub(super) fn next(&self, position: &Position) -> Option<Run> {
        let behind = |(name, seen): (&String, &Seen)| {
            self.databases.get(name).is_some_and(|known| !seen.vector.covers_all(&known.head))
        };
        if !position.0.iter().any(behind) {
            return None;
        }
        let mut run: Option<Run> = None;
        for (database, _, raised) in self.stages() {
            let Some(Seen { vector, .. }) = position.0.get(database) else { continue };
            let raised: Vec<(Origin, u64)> = raised.filter(|(origin, until)| vector.get(*origin) < *until).collect();
            if raised.is_empty() {
                continue;
            }
            let run = run.get_or_insert_with(|| Run {
                database: database.to_owned(),
                until: vector.clone(),
                first_step: vector.clone().joined(&raised.iter().copied().collect()),
                is_last: true,
            });
            if run.database != database {
                run.is_last = false;
                break;
            }
            raised.into_iter().for_each(|(origin, until)| run.until.raise(origin, until));
        }
        run
    }

    /// Moves a client on that was read what `database` has up to `reached`; the pieces that it is to be shown, in their order.
    pub(super) fn advance(&self, position: &mut Position, database: &str, reached: &VersionVector) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (stage, replayed, raised) in self.stages() {
            let Some(seen) = position.0.get_mut(stage) else { continue };
            for (origin, until) in raised {
                let after = seen.vector.get(origin);
                if after >= until {
                    continue;
                }
                let reached = if stage == database { reached.get(origin).min(until) } else { after };
                if reached > after {
                    pieces.push(Piece { origin, after, until: reached, replayed });
                    seen.vector.raise(origin, reached);
                }
                if reached < until {
                    return pieces;
                }
            }
        }
        pieces
    }
}

impl Step {
    fn record(&self) -> FollowedStep {
        FollowedStep {
            number: self.number,
            at: self.at,
            database: self.database.clone(),
            raised: self.raised.iter().copied().collect(),
            lost: self.lost,
        }
    }
}

fn record(name: &str, known: &Followed) -> FollowedDatabase {
    FollowedDatabase {
        name: name.to_owned(),
        first: known.first.clone(),
        based: known.based.clone(),
        lost: known.lost.clone(),
        source: known.source,
        at: known.at,
    }
}

#[cfg(test)]
mod tests;

//! Clients that are cut off anywhere see every change once, whatever others are shown meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use replication::{Dot, Origin, VersionVector};
use sqlite_store::{FollowedChange, FollowedDatabase, FollowedStep};

use super::{AGE, Course, Piece, Position, STEPS, Scope};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Each database has origins of its own, in an order that is not that of their age.
fn origin(database: usize, place: u8) -> Origin {
    Origin::from_bytes([
        7 + (place * 5) % 3,
        u8::try_from(database).unwrap(),
        place,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ])
}

fn dot(origin: Origin, sequence: u64) -> Dot {
    Dot { origin, sequence }
}

fn wanted() -> BTreeMap<String, VersionVector> {
    NAMES.map(|name| (name.to_owned(), VersionVector::new())).into()
}

/// What the state folder keeps.
#[derive(Default)]
struct Kept {
    databases: BTreeMap<String, FollowedDatabase>,
    steps: BTreeMap<i64, FollowedStep>,
}

impl Kept {
    fn take(&mut self, change: FollowedChange) {
        if let Some(below) = change.below {
            self.steps.retain(|number, _| *number >= below);
        }
        if let Some(without) = &change.without {
            self.steps.retain(|_, step| step.database != *without);
        }
        self.databases.extend(change.databases.into_iter().map(|it| (it.name.clone(), it)));
        self.steps.extend(change.steps.into_iter().map(|it| (it.number, it)));
    }

    fn course(&self) -> Course {
        Course::new(self.databases.values().cloned().collect(), self.steps.values().cloned().collect())
    }
}

struct Client {
    scope: Scope,
    position: Position,
    /// What it was shown; each once.
    seen: BTreeSet<Dot>,
    /// What it was shown last.
    last: Option<Dot>,
    /// What it need not be shown.
    before: VersionVector,
}

/// What there is.
struct World {
    course: Course,
    kept: Kept,
    have: [VersionVector; NAMES.len()],
    clients: Vec<Client>,
    now: i64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            course: Course::default(),
            kept: Kept::default(),
            have: std::array::from_fn(|_| VersionVector::new()),
            clients: Vec::new(),
            now: 0,
        };
        (0..NAMES.len()).for_each(|database| world.have[database].raise(origin(database, 0), 3));
        world
    }

    fn note(&mut self, database: usize) {
        self.now += 1;
        let change = self.course.note(NAMES[database], origin(database, 0), &self.have[database], self.now);
        self.kept.take(change);
    }

    fn join(&mut self, everything: bool, only: Option<usize>) {
        (0..NAMES.len()).for_each(|database| self.note(database));
        let scope = Scope(only.map(|database| NAMES[database].to_owned()));
        let here = |place: &usize| scope.has(NAMES[*place]);
        let before = if everything {
            VersionVector::new()
        } else {
            (0..NAMES.len()).filter(here).fold(VersionVector::new(), |all, it| all.joined(&self.have[it]))
        };
        let position = if everything { self.course.beginning(&scope, &wanted()) } else { self.course.end(&scope) };
        let last = self.course.last(&scope).filter(|_| !everything);
        self.clients.push(Client { scope, position, seen: BTreeSet::new(), last, before });
    }

    /// A client comes back, and tells what it saw last; or what it was told that it would go on after.
    fn come_back(&mut self, client: usize) {
        let Client { scope, position, last, .. } = &mut self.clients[client];
        *position = match last {
            Some(dot) => self.course.after(*dot, scope).expect("it is noted"),
            None => self.course.beginning(scope, &wanted()),
        };
    }

    /// A client reads what is next, as much as `room`, and is cut off after `cut` changes if there are so many.
    fn read(&mut self, place: usize, room: u64, cut: usize) {
        let Self { course, clients, have, .. } = self;
        let Client { scope, position, .. } = &clients[place];
        let unnoted = || (0..NAMES.len()).find(|it| scope.has(NAMES[*it]) && !position.covers(NAMES[*it], &have[*it]));
        let (database, until) = match course.next(position) {
            Some(run) => (NAMES.iter().position(|name| *name == run.database).unwrap(), Some(run.until)),
            None => match unnoted() {
                Some(database) => (database, None),
                None => return,
            },
        };
        let from = position.of(NAMES[database]);
        // By origin and sequence, as much as there is room for.
        let (mut reached, mut room) = (from.clone(), room);
        for (origin, sequence) in have[database].iter() {
            let sequence = until.as_ref().map_or(sequence, |until| sequence.min(until.get(origin)));
            let take = sequence.saturating_sub(from.get(origin)).min(room);
            reached.raise(origin, from.get(origin) + take);
            room -= take;
        }
        self.note(database);
        let Self { course, clients, .. } = self;
        let client = &mut clients[place];
        let pieces = course.advance(&mut client.position, NAMES[database], &reached);
        let dots = pieces
            .iter()
            .flat_map(|Piece { origin, after, until, .. }| (after + 1..=*until).map(|sequence| dot(*origin, sequence)));
        for (count, shown) in dots.enumerate() {
            if count == cut {
                return self.come_back(place);
            }
            assert!(client.seen.insert(shown) && !client.before.covers(shown), "{shown:?} twice");
            client.last = Some(shown);
        }
    }
}

/// A client that is there is told of a loss, whenever the course was read again.
#[test]
fn a_loss_is_known_after_the_course_was_read_again() {
    let mut world = World::new();
    world.join(false, None);
    let scope = Scope(None);
    let before = world.course.end(&scope);
    let lost = world.course.begin_anew("a", 1);
    world.kept.take(lost);
    for _ in 0..2 {
        assert!(world.course.has_lost(&before, "a") && !world.course.has_lost(&before, "b"));
        let after = world.course.end(&scope);
        world.course = world.kept.course();
        assert!(!world.course.has_lost(&after, "a"));
    }
}

proptest! {
    #[test]
    fn who_is_cut_off_goes_on_without_a_gap_and_sees_nothing_twice(
        acts in prop::collection::vec((0_u8..10, 0_usize..3, 0_u8..3, 1_u64..6, 0_usize..12), 1..120),
    ) {
        let mut world = World::new();
        for (act, database, place, amount, cut) in acts {
            let client = cut % world.clients.len().max(1);
            match act {
                0 if world.clients.len() < 4 => world.join(amount % 2 == 0, (place > 0).then_some(database)),
                0..=3 => {
                    let origin = origin(database, place);
                    let sequence = world.have[database].get(origin) + amount;
                    world.have[database].raise(origin, sequence);
                }
                // The daemon is started anew: everybody comes back.
                4 => {
                    world.course = world.kept.course();
                    (0..world.clients.len()).for_each(|client| world.come_back(client));
                }
                _ if world.clients.is_empty() => {}
                5 => world.come_back(client),
                _ => world.read(client, amount, cut),
            }
        }
        for client in 0..world.clients.len() {
            for _ in 0..1_000 {
                world.read(client, u64::MAX, usize::MAX);
            }
            let Client { scope, seen, before, .. } = &world.clients[client];
            for database in (0..NAMES.len()).filter(|it| scope.has(NAMES[*it])) {
                for (origin, sequence) in world.have[database].iter() {
                    for sequence in before.get(origin) + 1..=sequence {
                        prop_assert!(seen.contains(&dot(origin, sequence)), "{:?} is missing", dot(origin, sequence));
                    }
                }
            }
        }
    }
}

#[test]
fn steps_of_one_writer_are_one() {
    let mut course = Course::default();
    let (writer, mut have) = (origin(0, 0), VersionVector::new());
    for sequence in 1..100 {
        have.raise(writer, sequence);
        course.note("a", writer, &have, 0);
    }
    assert_eq!(course.steps.len(), 1);
}

#[test]
fn what_is_forgotten_cannot_be_gone_on_from_and_everything_else_can() {
    let (mut course, mut kept) = (Course::default(), Kept::default());
    let (all, mut have) = (Scope(None), VersionVector::new());
    have.raise(origin(0, 0), 5);
    let mut note = |have: &VersionVector, now| {
        kept.take(course.note("a", origin(0, 0), have, now));
        assert_eq!(kept.steps.len(), course.steps.len());
        kept.steps.len()
    };
    note(&have, 0);
    // Two that write by turns.
    let mut most = 0;
    for turn in 1..=30_000_u64 {
        have.raise(origin(0, if turn % 2 == 0 { 1 } else { 2 }), turn);
        most = most.max(note(&have, 0));
    }
    assert!(most <= STEPS);
    let mut course = kept.course();
    assert_eq!(course.after(dot(origin(0, 2), 1), &all), None);
    assert_eq!(course.after(dot(origin(0, 1), 99_999), &all), None);
    assert!(course.after(dot(origin(0, 2), 29_999), &all).is_some());
    assert!(course.after(dot(origin(0, 0), 3), &all).is_some(), "who asked for everything is not done with it");
    have.raise(origin(0, 2), 40_000);
    kept.take(course.note("a", origin(0, 0), &have, AGE + 1));
    assert_eq!(kept.steps.len(), 1);
    let course = kept.course();
    assert_eq!(course.after(dot(origin(0, 2), 29_999), &all), None);
}

#[test]
fn nobody_goes_on_where_a_database_has_lost_what_it_had() {
    let mut course = Course::default();
    let [all, other] = [None, Some("b".to_owned())].map(Scope);
    let vector = |place, sequence| VersionVector::from_iter([(origin(place, 0), sequence)]);
    course.note("a", origin(0, 0), &vector(0, 5), 0);
    course.note("b", origin(1, 0), &vector(1, 5), 0);
    course.note("a", origin(0, 0), &vector(0, 9), 0);
    course.note("b", origin(1, 0), &vector(1, 9), 0);
    let [there, only] = [course.end(&all), course.end(&other)];
    // An older state that somebody read before the others is not lost.
    course.note("a", origin(0, 0), &vector(0, 7), 0);
    assert!(!course.has_lost(&there, "a"));
    // The file is one of before, under a new origin.
    course.note("a", origin(0, 1), &vector(0, 7), 0);
    assert!(course.has_lost(&there, "a") && !course.has_lost(&only, "b"));
    for sequence in [3, 6, 9] {
        assert_eq!(course.after(dot(origin(0, 0), sequence), &all), None);
    }
    assert_eq!(course.after(dot(origin(1, 0), 8), &all), None);
    assert!(course.after(dot(origin(1, 0), 8), &other).is_some());
    let goes_on = vector(0, 7).joined(&VersionVector::from_iter([(origin(0, 1), 2)]));
    course.note("a", origin(0, 1), &goes_on, 0);
    assert!(course.after(dot(origin(0, 1), 1), &all).is_some());
}

#[test]
fn deletions_that_are_forgotten_concern_who_may_have_seen_what_was_deleted() {
    let mut course = Course::default();
    let (all, writer) = (Scope(None), origin(0, 0));
    let vector = |sequence| VersionVector::from_iter([(writer, sequence)]);
    course.note("a", writer, &vector(5), 0);
    let there = course.end(&all);
    course.note("a", writer, &vector(9), 0);
    assert!(!course.misses(&there, "a", &vector(5)));
    assert!(course.misses(&there, "a", &vector(6)));
    assert!(!course.misses(&course.end(&all), "a", &vector(9)));
    let anew = course.beginning(&all, &BTreeMap::from([("a".to_owned(), vector(7))]));
    assert!(!course.misses(&anew, "a", &vector(7)) && course.misses(&anew, "a", &vector(8)));
}

#[test]
fn a_step_ends_after_an_hour() {
    let (mut course, writer) = (Course::default(), origin(0, 0));
    for minute in 0..150_i64 {
        course.note("a", writer, &VersionVector::from_iter([(writer, 1 + minute.cast_unsigned())]), minute * 60_000);
    }
    assert_eq!(course.steps.len(), 3);
    assert!(!course.touch("a", 2 * super::HOUR).is_empty() && course.touch("a", 2 * super::HOUR).is_empty());
}

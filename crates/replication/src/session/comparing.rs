//! Two databases that have never met compare their baseline rows before either sends any: see [`reconcile`](crate::reconcile).
//!
//! The one with the smaller origin asks (where only one of them takes rows, that one), range by range, and in the end says with a `want` what need not be sent to it. The
//! other answers, and waits for that; if it hears nothing for long, it sends everything. What goes missing costs time only.

use std::collections::{BTreeSet, VecDeque};

use crate::message::{Compare, DatabaseHello, Fingerprints, Message, Want};
use crate::node_schema::NodeSchemas;
use crate::reconcile::{Answer, Compared, FIRST_ROWS, KeyRange, LAST_ROWS, Question, TableRanges};
use crate::row::lacks_dropped;
use crate::session::channel::{Channel, Terms};
use crate::session::incoming::PATIENCE;
use crate::session::{LocalState, Output, Session, SessionEvent};
use crate::version_vector::VersionVector;

/// Ranges in one question.
const RANGES: usize = 256;

/// Questions after which it is enough, whatever the answers are: each covers thousands of rows.
const QUESTIONS: u64 = 1 << 20;

/// Milliseconds in which the database is to have noted that it has swept. If it has not, it could not.
const NOTED: u64 = 30_000;

/// Where the comparison stands.
#[derive(Debug, Default)]
pub(super) enum Comparing {
    /// It is not known yet whether there is anything to compare.
    #[default]
    Undecided,
    /// This side asks.
    Asking(Box<Asking>),
    /// The peer asks. If nothing is heard until this time, it does not.
    Answering { until: u64 },
    /// There is nothing to compare, or it was compared.
    Done,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Asking {
    /// What is to be asked about, with the number of rows to a fingerprint.
    todo: VecDeque<(u32, TableRanges)>,
    /// The question that is out, when it is to be repeated, and how often it was.
    open: Option<(Question, u64, u64)>,
    /// The question whose answer the database compares with what it has.
    compared: Option<Question>,
    since: u64,
    asked: u64,
    /// Whether keys are asked for.
    keys: bool,
}

/// What tombstones that are gone at the peer deleted is being deleted.
#[derive(Debug)]
pub(super) struct Sweep {
    asking: Asking,
    /// Up to where they may be gone.
    dropped: VersionVector,
    /// When all was asked.
    finished: Option<u64>,
}

impl Sweep {
    pub(super) fn next_timeout(&self) -> Option<u64> {
        self.asking.open.as_ref().map(|(_, repeat, _)| *repeat).or(self.finished.map(|at| at + NOTED))
    }
}

impl Comparing {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    pub(super) fn next_timeout(&self) -> Option<u64> {
        match self {
            Self::Asking(asking) => asking.open.as_ref().map(|(_, repeat, _)| *repeat),
            Self::Answering { until } => Some(*until),
            Self::Undecided | Self::Done => None,
        }
    }

    /// The peer is there: what is waited for may be on its way.
    pub(super) fn hurry_less(&mut self, now: u64, repeat: u64) {
        match self {
            Self::Asking(asking) => {
                asking.open.iter_mut().for_each(|(_, at, _)| *at = (*at).max(now + repeat));
            }
            Self::Answering { until } => *until = (*until).max(now + PATIENCE * repeat),
            Self::Undecided | Self::Done => {}
        }
    }
}

impl Session {
    /// The peer asks what there is.
    pub(super) fn compare(&mut self, compare: Compare) {
        let (now, repeat) = (self.now, self.config.repeat);
        let Some(channel) = self.channels.get_mut(&compare.database).filter(|channel| channel.is_shared()) else {
            return;
        };
        channel.comparing.hurry_less(now, repeat);
        if channel.fingerprinting {
            // It asks once more, if it still wants to know.
            return;
        }
        channel.fingerprinting = true;
        let Compare { database, question } = compare;
        self.actions.push_back(Output::Fingerprint { database, question });
    }

    /// The database has looked.
    pub(super) fn fingerprinted(&mut self, database: String, answer: Option<Answer>) {
        let (now, repeat) = (self.now, self.config.repeat);
        let Some(channel) = self.channels.get_mut(&database) else { return };
        channel.fingerprinting = false;
        channel.comparing.hurry_less(now, repeat);
        if let (Some(answer), Some(local)) = (answer, &channel.local) {
            let source = local.origin;
            self.sends.push_back(Message::Fingerprints(Fingerprints { database, source, answer }));
        }
    }

    /// The peer's answer.
    pub(super) fn fingerprints(&mut self, fingerprints: Fingerprints) {
        let Fingerprints { database, source, answer } = fingerprints;
        let Some(channel) = self.channels.get_mut(&database) else { return };
        let current = channel.remote.as_ref().is_some_and(|remote| remote.origin == source);
        let asks = |asking: &Asking| {
            asking.open.as_ref().is_some_and(|(question, ..)| current && question.number == answer.number)
        };
        let Some(asking) = channel.asking(asks) else { return };
        if let Some((question, ..)) = asking.open.take() {
            let keys = question.keys;
            asking.compared = Some(question);
            let output = if keys {
                Output::Sweep { database, source, answer }
            } else {
                Output::Compare { database, source, answer }
            };
            self.actions.push_back(output);
        }
    }

    /// The database has compared an answer with what it has; not, if it could not now.
    pub(super) fn compared(&mut self, database: &str, number: u64, rest: TableRanges, compared: Option<Compared>) {
        let (now, repeat) = (self.now, self.config.repeat);
        let Some(channel) = self.channels.get_mut(database) else { return };
        let waits = |asking: &Asking| asking.compared.as_ref().is_some_and(|question| question.number == number);
        let Some(asking) = channel.asking(waits) else { return };
        let Some(question) = asking.compared.take() else { return };
        let Some(Compared { ours, theirs, differing }) = compared else {
            asking.open = Some((question, now + repeat, 0));
            return;
        };
        if !rest.is_empty() {
            asking.todo.push_front((question.rows, rest));
        }
        // What is left of a sweep is asked for with its keys.
        if question.rows > LAST_ROWS || question.keys {
            asking.todo.extend(in_portions(differing).map(|portion| (LAST_ROWS, portion)));
        }
        channel.spared.join(&ours);
        if let (Some(local), Some(remote), false) = (&mut channel.local, &channel.remote, theirs.is_empty()) {
            local.held.insert(remote.origin, theirs);
        }
    }
}

/// No more ranges at a time than a question has.
fn in_portions(tables: TableRanges) -> impl Iterator<Item = TableRanges> {
    let portions = |(table, ranges): (String, Vec<KeyRange>)| {
        let portions: Vec<TableRanges> =
            ranges.chunks(RANGES).map(|portion| vec![(table.clone(), portion.to_vec())]).collect();
        portions
    };
    tables.into_iter().flat_map(portions)
}

impl Channel {
    /// What this side asks, if it does.
    fn asking(&mut self, which: impl Fn(&Asking) -> bool) -> Option<&mut Asking> {
        let sweeping = self.sweep.as_mut().map(|sweep| &mut sweep.asking);
        let comparing = match &mut self.comparing {
            Comparing::Asking(asking) => Some(&mut **asking),
            _ => None,
        };
        sweeping.into_iter().chain(comparing).find(|asking| which(asking))
    }

    /// Whether one side lacks tombstones that the other has no more: neither sends anything before it has deleted what they
    /// deleted.
    pub(super) fn is_swept(&self) -> bool {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return true };
        let ours = (&local.have, &local.dropped);
        let theirs = (&self.peer_have, &remote.dropped);
        // Deletions of who only reads are its own.
        let Terms { takes, gives } = self.terms;
        let lacks = (takes && lacks_dropped(ours, theirs)) || (gives && lacks_dropped(theirs, ours));
        !lacks
    }

    /// Asks for keys where tombstones that this side lacks may be gone at the other.
    pub(super) fn pump_sweep(
        &mut self,
        name: &str,
        now: u64,
        repeat: u64,
        actions: &mut VecDeque<Output>,
        sends: &mut VecDeque<Message>,
    ) {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return };
        if !self.terms.takes {
            return;
        }
        if !lacks_dropped((&local.have, &local.dropped), (&self.peer_have, &remote.dropped)) {
            if self.sweep.take().is_some() {
                // What came meanwhile was not taken; nor, perhaps, what was on its way when the peer forgot more deletions.
                self.say_want(name, sends);
                let have = self.peer_have.clone();
                self.restart(&have);
            }
            return;
        }
        // More of them may have gone meanwhile.
        self.sweep.take_if(|sweep| {
            let noted = local.dropped.covers_all(&sweep.dropped);
            sweep.finished.is_some_and(|at| noted || now >= at + NOTED)
        });
        let sweep = self.sweep.get_or_insert_with(|| {
            let tables = local.tables.keys().filter(|table| same_key(table, local, remote));
            let ranges: TableRanges = tables.map(|table| (table.clone(), vec![KeyRange::default()])).collect();
            let todo = (!ranges.is_empty()).then_some((FIRST_ROWS, ranges)).into_iter().collect();
            let asking = Asking { todo, open: None, compared: None, since: now, asked: 0, keys: true };
            Box::new(Sweep { asking, dropped: remote.dropped.clone(), finished: None })
        });
        if sweep.finished.is_some() {
            return;
        }
        match sweep.asking.ask(name, now, repeat, &mut self.questions, sends) {
            Asked::Waiting => {}
            // The peer does not answer: from the beginning, when it is heard again.
            Asked::Unanswered => self.sweep = None,
            Asked::All => {
                sweep.finished = Some(now);
                actions.push_back(Output::Swept { database: name.to_owned(), dropped: sweep.dropped.clone() });
            }
        }
    }

    /// Decides whether there is something to compare, asks the next question, and comes to an end.
    pub(super) fn pump_comparing(
        &mut self,
        name: &str,
        now: u64,
        repeat: u64,
        together: u64,
        actions: &mut VecDeque<Output>,
        sends: &mut VecDeque<Message>,
    ) {
        if matches!(self.comparing, Comparing::Undecided) {
            self.decide(name, now, (repeat, together), sends);
        }
        match &mut self.comparing {
            Comparing::Answering { until } if now >= *until => self.comparing = Comparing::Done,
            Comparing::Asking(asking) => {
                if asking.ask(name, now, repeat, &mut self.questions, sends) != Asked::Waiting {
                    let millis = now.saturating_sub(asking.since);
                    let rows = self.spared.runs().map(|(_, first, last)| last - first + 1).sum();
                    let event = SessionEvent::Reconciled { database: name.to_owned(), rows, millis };
                    actions.push_back(Output::Event(event));
                    self.comparing = Comparing::Done;
                    self.say_want(name, sends);
                }
            }
            Comparing::Undecided | Comparing::Answering { .. } | Comparing::Done => {}
        }
    }

    fn decide(&mut self, name: &str, now: u64, (repeat, together): (u64, u64), sends: &mut VecDeque<Message>) {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return };
        if !self.terms.takes && !self.terms.gives {
            self.comparing = Comparing::Done;
            return;
        }
        if local.have.get(remote.origin) > 0 || self.peer_have.get(local.origin) > 0 {
            self.comparing = Comparing::Done;
            if local.held.contains_key(&remote.origin) {
                // An interrupted catch-up goes on.
                self.say_want(name, sends);
            }
            return;
        }
        if local.publishing || remote.publishing {
            // Nothing can be alike where one side has nothing: it need not wait for all of the other's. What fits one transaction comes
            // as one all the same.
            let few = local.publishing && local.have.get(local.origin) <= together;
            if !few && (is_empty(local.publishing, &local.issued) || is_empty(remote.publishing, &remote.issued)) {
                self.comparing = Comparing::Done;
            }
            return;
        }
        let whole = |table: &String| !local.selection.limits(table) && !remote.selection.limits(table);
        let alike = |table: &&String| local.tables.get(*table) == remote.tables.get(*table) && whole(table);
        let tables = local.issued.intersection(&remote.issued).filter(alike);
        let ranges: TableRanges = tables.map(|table| (table.clone(), vec![KeyRange::default()])).collect();
        let Terms { takes, gives } = self.terms;
        let asks = if takes == gives { local.origin < remote.origin } else { takes };
        self.comparing = if ranges.is_empty() {
            Comparing::Done
        } else if asks {
            let todo = VecDeque::from([(FIRST_ROWS, ranges)]);
            Comparing::Asking(Box::new(Asking { todo, open: None, compared: None, since: now, asked: 0, keys: false }))
        } else {
            Comparing::Answering { until: now + PATIENCE * repeat }
        };
    }

    /// Says what is here, what is not to be sent, and asks for the rest.
    pub(super) fn say_want(&self, name: &str, sends: &mut VecDeque<Message>) {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return };
        let held = local.held.get(&remote.origin).cloned().unwrap_or_default();
        let (database, have) = (name.to_owned(), local.have.clone());
        // An older one that still waits to be sent says less.
        sends.retain(|message| !matches!(message, Message::Want(want) if want.database == name));
        sends.push_back(Message::Want(Want { database, have, received: self.received(), held }));
    }
}

/// Whether a side has made all of its rows known, and had none.
fn is_empty(publishing: bool, issued: &BTreeSet<String>) -> bool {
    !publishing && issued.is_empty()
}

/// Whether both sides have a table, and name its rows by the same columns: keys of different ones must not be taken for rows that
/// are missing.
fn same_key(table: &str, local: &LocalState, remote: &DatabaseHello) -> bool {
    let (Some(ours), Some(theirs)) = (local.tables.get(table), remote.tables.get(table)) else { return false };
    let key = |schemas: &NodeSchemas, origin| -> Option<Vec<String>> {
        let tables = schemas.get(origin)?.tables.as_ref()?;
        let shape = tables.iter().find(|shape| shape.name == table)?;
        Some(shape.key.iter().filter_map(|index| shape.columns.get(usize::from(*index)).cloned()).collect())
    };
    let keys = (key(&local.schemas, local.origin), key(&remote.schemas, remote.origin));
    ours == theirs || (keys.0.is_some() && keys.0 == keys.1)
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing now.
    Waiting,
    /// There is nothing more to ask.
    All,
    /// There is no answer.
    Unanswered,
}

impl Asking {
    /// Asks what is to be asked now.
    fn ask(&mut self, name: &str, now: u64, repeat: u64, numbers: &mut u64, sends: &mut VecDeque<Message>) -> Asked {
        if self.compared.is_some() {
            return Asked::Waiting;
        }
        if self.open.is_none() {
            let Some((rows, tables)) = self.todo.pop_front() else { return Asked::All };
            if self.asked == QUESTIONS {
                return Asked::Unanswered;
            }
            self.asked += 1;
            *numbers += 1;
            self.open = Some((Question { number: *numbers, rows, keys: self.keys, tables }, now, 0));
        }
        let Some((question, at, tries)) = &mut self.open else { return Asked::All };
        if now < *at {
            return Asked::Waiting;
        }
        if *tries > PATIENCE {
            return Asked::Unanswered;
        }
        (*at, *tries) = (now + repeat, *tries + 1);
        let compare = Compare { database: name.to_owned(), question: question.clone() };
        sends.push_back(Message::Compare(compare));
        Asked::Waiting
    }
}

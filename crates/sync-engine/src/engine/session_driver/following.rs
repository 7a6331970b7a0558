//! The databases that a session is about: which there are, and how they stand.

use std::sync::{Arc, Weak};

use futures::stream::unfold;
use replication::session::{Input, LocalState};
use sqlite_store::{DatabaseState, Phase};

use super::SessionDriver;
use crate::engine::databases;

impl SessionDriver {
    /// Listens to databases that this session does not know yet, which it answers, and takes leave of those that are gone.
    pub(super) fn follow_sources(&mut self) -> Vec<String> {
        if !self.acquainted {
            return Vec::new();
        }
        let members = self.shared.databases.members();
        let stays = |name: &String, life| members.iter().any(|it| it.life == life && it.source.name() == name);
        let gone: Vec<String> =
            self.sources.iter().filter(|(name, (life, _))| !stays(name, *life)).map(|(name, _)| name.clone()).collect();
        for database in gone {
            self.sources.remove(&database);
            self.taken.remove(&database);
            self.behind.remove(&database);
            self.handle(Input::LocalGone { database });
        }
        let mut new = Vec::new();
        for databases::Member { life, source, .. } in members {
            if self.sources.contains_key(source.name()) || !self.grant.admits(source.name()) {
                continue;
            }
            let name = source.name().to_owned();
            let mut states = source.state();
            let first = states.borrow_and_update().clone();
            self.sources.insert(name.clone(), (life, source));
            self.take_state(name.clone(), &first);
            new.push(name.clone());
            let stream = unfold((name, states), move |(name, mut states)| async move {
                states.changed().await.ok()?;
                let state = states.borrow_and_update().clone();
                Some(((name.clone(), life, state), (name, states)))
            });
            self.states.push(Box::pin(stream));
        }
        new
    }

    /// Whether a database is the one that was started as `life`.
    pub(super) fn knows(&self, database: &str, life: u64) -> bool {
        self.sources.get(database).is_some_and(|(known, _)| *known == life)
    }

    /// Takes a state of a database, unless it is the one that was taken last.
    pub(super) fn take_state(&mut self, database: String, state: &Arc<DatabaseState>) {
        let same = |taken: &Weak<DatabaseState>| std::ptr::eq(taken.as_ptr(), Arc::as_ptr(state));
        if self.taken.get(&database).is_some_and(same) {
            return;
        }
        self.taken.insert(database.clone(), Arc::downgrade(state));
        match (&state.phase, state.origin) {
            (Phase::Attached, Some(origin)) => {
                let state = LocalState {
                    origin,
                    have: state.have.clone(),
                    received: state.received.clone(),
                    clock: state.clock,
                    tables: (*state.tables).clone(),
                    policies: (*state.policies).clone(),
                    retired: (*state.retired).clone(),
                    nodes: (*state.nodes).clone(),
                    schemas: Arc::clone(&state.schemas),
                    selection: (*state.selection).clone(),
                    publishing: state.publishing,
                    issued: state.issued.clone(),
                    held: state.held.clone(),
                    dropped: state.dropped.clone(),
                    known: Arc::clone(&state.known),
                };
                self.handle(Input::Local { database, state });
            }
            _ => self.handle(Input::LocalGone { database }),
        }
    }
}

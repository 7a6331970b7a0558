//! Which remote nodes there is a session with, and what each session last said of itself.
//!
//! Two nodes that dial each other end with two links. Both ends keep the one that the node with the smaller name dialed,
//! without a word between them; of two links dialed by the same node the younger one stands, and so does the link of a
//! node that was started anew: the other one leads to a process that is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::PeerStatus;

/// Sessions that nodes may begin which dial this one: each takes a file and some memory, and the databases need files too.
pub(crate) const MOST: usize = 400;

/// The sessions of one engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    inner: Arc<Mutex<BTreeMap<String, Member>>>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Member {
    /// Tells the sessions with one node apart.
    session: u64,
    incarnation: u64,
    dialed_by: String,
    /// Ends the session because a better link took its place.
    replaced: CancellationToken,
    status: Arc<Mutex<PeerStatus>>,
}

/// A session's place in the registry; given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    registry: Registry,
    node: String,
    session: u64,
    /// Cancelled when a better link took this one's place.
    pub(crate) replaced: CancellationToken,
}

impl Registry {
    /// Whether one more node can be taken in.
    pub(crate) fn has_room_for(&self, node: &str) -> bool {
        let members = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        members.len() < MOST || members.contains_key(node)
    }

    /// Takes the place of `node`'s session for a link that `dialed_by` dialed; none if there is a better link already.
    /// Also tells whether it was the place of another process of that name.
    pub(crate) fn take(
        &self,
        node: &str,
        incarnation: u64,
        session: u64,
        dialed_by: &str,
        status: &Arc<Mutex<PeerStatus>>,
    ) -> Option<(Seat, bool)> {
        let mut members = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut namesake = false;
        if let Some(present) = members.get(node) {
            namesake = present.incarnation != incarnation;
            if !namesake && present.dialed_by.as_str() < dialed_by {
                return None;
            }
            present.replaced.cancel();
        }
        let replaced = CancellationToken::new();
        let member = Member {
            session,
            incarnation,
            dialed_by: dialed_by.to_owned(),
            replaced: replaced.clone(),
            status: Arc::clone(status),
        };
        members.insert(node.to_owned(), member);
        drop(members);
        self.bump();
        Some((Seat { registry: self.clone(), node: node.to_owned(), session, replaced }, namesake))
    }

    /// Whether there is a session with `node`.
    pub(crate) fn has(&self, node: &str) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    /// Waits until there is no session with `node`.
    pub(crate) async fn gone(&self, node: &str) {
        let mut changed = self.changed.subscribe();
        loop {
            if !self.has(node) {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What every session last said of itself, by node.
    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        let members = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        members.values().map(|member| member.status.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut members = self.registry.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if members.get(&self.node).is_some_and(|member| member.session == self.session) {
            members.remove(&self.node);
        }
        drop(members);
        self.registry.bump();
    }
}

#[cfg(test)]
mod tests {
    use super::Registry;

    #[test]
    fn both_ends_keep_the_link_that_the_smaller_name_dialed() {
        let registry = Registry::default();
        let status = std::sync::Arc::default();
        let take = |run, session, dialed_by| registry.take("b", run, session, dialed_by, &status);
        let (by_b, _) = take(1, 1, "b").unwrap();
        let (by_a, namesake) = take(1, 2, "a").unwrap();
        assert!(by_b.replaced.is_cancelled() && !namesake);
        drop(by_b);
        assert!(take(1, 3, "b").is_none());
        assert!(!by_a.replaced.is_cancelled());
        let (again, _) = take(1, 4, "a").unwrap();
        assert!(by_a.replaced.is_cancelled());
        drop(by_a);
        let (again, namesake) = {
            let anew = take(2, 5, "b").unwrap();
            assert!(again.replaced.is_cancelled());
            anew
        };
        assert!(namesake);
        assert_eq!(registry.statuses().len(), 1);
        drop(again);
        assert!(registry.statuses().is_empty());
    }
}

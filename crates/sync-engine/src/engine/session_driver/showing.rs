//! What the status shows of a session: it is worked out for all databases at once, and so not after each message of many.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::SessionDriver;
use crate::status::PeerDatabaseStatus;

/// The pause between two times that the status is worked out.
const PAUSE: Duration = Duration::from_millis(20);

impl SessionDriver {
    /// Brings the status up to date, at once after a quiet time; or when that is to be done.
    pub(super) fn show(&mut self) -> Option<tokio::time::Instant> {
        let due = self.shown.map(|shown| shown + PAUSE);
        if due.is_some_and(|due| due > tokio::time::Instant::now()) {
            return due;
        }
        self.shown = Some(tokio::time::Instant::now());
        self.update_status();
        None
    }

    pub(super) fn update_status(&mut self) {
        let mut databases = Vec::new();
        for (name, peer, own) in self.session.shared_databases() {
            let since = self.behind.entry(name.to_owned()).or_default().note(peer, own, Instant::now());
            databases.push(PeerDatabaseStatus { name: name.to_owned(), behind: peer.behind(own), lag_ms: 0, since });
        }
        let traffic = self.sender.traffic();
        let (received, sent) = (traffic.bytes_in(), traffic.bytes_out());
        if let Some(node) = self.session.remote_node().filter(|_| (received, sent) != self.counted) {
            let (before, after) = std::mem::replace(&mut self.counted, (received, sent));
            self.shared.events.metrics().traffic(node, received - before, sent - after);
        }
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.bytes_in, status.bytes_out) = (received, sent);
        status.databases = databases;
        status.role = self.grant.role.as_str().to_owned();
        status.read_only_there = !self.session.gives();
    }
}

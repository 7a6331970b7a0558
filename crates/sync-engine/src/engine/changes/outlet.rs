//! How changes go out: as server-sent events, or as messages of a WebSocket. Owns the form and how long a client may take nothing.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Bytes;
use peer_link::{Frame, LinkReceiver, LinkSender};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::follower::Since;
use crate::change_event::ChangeEvent;

/// How long a client may take nothing before it is given up.
const STALL: Duration = Duration::from_secs(60);

/// Bytes that go out at a time: a client that is slow takes as much again and again, and is not given up.
const PORTION: usize = 16 << 10;

/// Where one client's changes go.
pub(super) enum Outlet {
    Events(Events),
    Socket(LinkSender, LinkReceiver),
}

/// A response that goes on.
pub(super) struct Events {
    pub(super) body: mpsc::Sender<Bytes>,
    /// Ends the connection of a client that takes nothing.
    pub(super) give_up: CancellationToken,
}

impl Events {
    async fn send(&self, text: String) -> bool {
        match tokio::time::timeout(STALL, self.body.send(text.into())).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.give_up.cancel();
                false
            }
        }
    }
}

impl Outlet {
    /// Sends changes. False if the client is gone.
    pub(super) async fn changes(&self, events: &[ChangeEvent]) -> bool {
        let mut portion = String::new();
        for event in events {
            // It holds nothing that JSON has no form for.
            let json = serde_json::to_string(event).unwrap_or_default();
            match self {
                Self::Socket(sender, _) => {
                    if !sender.send(Frame::Text(json)).await {
                        return false;
                    }
                }
                Self::Events(out) => {
                    // The id comes last: who is cut off before has not seen the change. Writing to a String cannot fail.
                    let _ = write!(portion, "event: change\ndata: {json}\nid: {}\n\n", event.id);
                    if portion.len() >= PORTION && !out.send(std::mem::take(&mut portion)).await {
                        return false;
                    }
                }
            }
        }
        match self {
            Self::Events(out) if !portion.is_empty() => out.send(portion).await,
            _ => true,
        }
    }

    /// Says that there is nothing new; and, where that changed without an event, from where the client would go on.
    pub(super) async fn alive(&self, at: Option<Since>) -> bool {
        match self {
            // A link pings by itself.
            Self::Socket(..) => true,
            Self::Events(out) => {
                let id = at.map(|at| format!("id: {at}\n\n")).unwrap_or_default();
                out.send(format!(":\n\n{id}")).await
            }
        }
    }

    /// Says why there will be no more.
    pub(super) async fn gone(&self, reason: &str) {
        let json = serde_json::json!({ "error": reason }).to_string();
        // The client may have gone before.
        let _ = match self {
            Self::Socket(sender, _) => sender.send(Frame::Text(json)).await,
            Self::Events(out) => out.send(format!("event: gone\ndata: {json}\n\n")).await,
        };
    }

    /// Waits until the client is gone. What a client says is not listened to.
    pub(super) async fn closed(&mut self) {
        match self {
            Self::Socket(_, receiver) => while receiver.recv().await.is_some() {},
            Self::Events(out) => out.body.closed().await,
        }
    }
}

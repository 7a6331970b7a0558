//! What can go wrong on the network.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::TlsError;

/// Why a link is gone. What was queued may or may not have arrived; a new link helps unless the peer refuses.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkLost {
    /// This side closed it.
    #[error("the link was closed on this side")]
    Closed,
    /// The peer closed it in an orderly way.
    #[error("the peer closed the link ({code}{}{reason})", if reason.is_empty() { "" } else { ": " })]
    ClosedByPeer {
        /// The WebSocket close code.
        code: u16,
        /// What the peer said.
        reason: String,
    },
    /// The connection ended without a word: the peer was killed, or something between us broke.
    #[error("the connection ended without a goodbye")]
    Ended,
    /// Nothing came for too long, not even an answer to a ping.
    #[error("nothing was heard for {0:?}")]
    Idle(Duration),
    /// The peer does not read what is sent to it.
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
    /// The peer sent a message that is larger than is allowed.
    #[error("the peer sent a message of more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The peer does not speak WebSocket as it should.
    #[error("the peer broke the WebSocket protocol: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
}

/// Why a peer cannot be reached. Nothing is left behind; unless it [is permanent](DialError::is_permanent), trying again
/// may help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The text is no URL of a peer.
    #[error("{url:?} is not a peer's URL ({reason}); write it as ws://host:port or wss://host:port")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// There are no authorities to check the peer's certificate against.
    #[error("cannot check the certificate of {authority}: {source}; name the authority's certificate in [tls] ca")]
    Authorities {
        /// Host and port.
        authority: String,
        /// What is in the way.
        source: TlsError,
    },
    /// The connection could not be encrypted, or one side does not believe the other's certificate.
    #[error("no TLS with {authority}: {reason}")]
    Tls {
        /// Host and port.
        authority: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The peer wants another token than this node shows, or one at all.
    #[error(
        "{authority} does not let this node in (HTTP status {status}); does it know the token or the certificate of this node ([auth] token_file, [tls] certificate)? Its log tells what it wants"
    )]
    Unauthorized {
        /// Host and port.
        authority: String,
        /// The HTTP status.
        status: u16,
    },
    /// The machine or the port cannot be reached.
    #[error("cannot reach {authority}: {source}; is the peer running, and is the address right?")]
    Connect {
        /// Host and port.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// The peer did not answer in time.
    #[error("{authority} did not answer within {after:?}")]
    Timeout {
        /// Host and port.
        authority: String,
        /// How long was waited.
        after: Duration,
    },
    /// Something answers there, but not as a peer does.
    #[error("{authority} answered with HTTP status {status}; is it a sync-engine node?")]
    Status {
        /// Host and port.
        authority: String,
        /// The HTTP status.
        status: u16,
    },
    /// A WebSocket server answers there that does not speak our protocol.
    #[error("{authority} speaks WebSocket, but not {subprotocol}; is it a sync-engine node of a fitting version?")]
    Subprotocol {
        /// Host and port.
        authority: String,
        /// What was asked for.
        subprotocol: String,
    },
    /// The handshake failed in another way.
    #[error("the WebSocket handshake with {authority} failed: {reason}")]
    Handshake {
        /// Host and port.
        authority: String,
        /// What went wrong.
        reason: String,
    },
}

impl DialError {
    /// Whether the same URL can never work.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Url { .. })
    }
}

/// Why a request does not become a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The request is no WebSocket upgrade.
    #[error("this address takes WebSocket connections only: {0}")]
    NotWebSocket(&'static str),
    /// The client does not speak our protocol.
    #[error("offer the WebSocket subprotocol {0}")]
    Subprotocol(String),
    /// The connection could not be taken over after the answer, or not in time.
    #[error("the connection could not be taken over: {0}")]
    Takeover(String),
}

impl UpgradeError {
    /// The HTTP status to answer with.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotWebSocket(_) => 426,
            Self::Subprotocol(_) | Self::Takeover(_) => 400,
        }
    }
}

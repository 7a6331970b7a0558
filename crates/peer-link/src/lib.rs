//! Everything network: dialing with back-off, TLS, taking in upgraded HTTP requests, and links that pump frames both ways.
//!
//! Owns: sockets, WebSocket framing, keep-alive, limits. Never touches: SQL, the contents of messages, policies. The
//! subprotocol and the path are the caller's.

mod backoff;
mod dial;
mod error;
mod in_process;
mod link;
mod metered;
mod pump;
mod tls;
mod transport;
mod upgrade;

pub use backoff::Backoff;
pub use dial::{Credentials, check_url, dial, tls_reason, without_secret};
pub use error::{DialError, LinkLost, UpgradeError};
pub use in_process::{End, in_process};
pub use link::{Direction, Frame, Link, LinkOptions, LinkReceiver, LinkSender, Traffic, over};
pub use tls::{Identity, TlsClient, TlsError, TlsServer};
pub use transport::Transport;
pub use upgrade::{Pending, is_upgrade, upgrade};

//! Links within one process: both ends of a pipe, and no socket.

use tokio::io::duplex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link::{Direction, Link, LinkOptions, over};

/// Bytes that the pipe holds each way; beyond that whoever writes waits.
const PIPE: usize = 256 << 10;

/// Who has one end of a link: where its task runs, and what ends it.
#[derive(Debug)]
pub struct End<'a> {
    /// Limits and times.
    pub options: &'a LinkOptions,
    /// Where the end's one task runs.
    pub tracker: &'a TaskTracker,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// Two links that are the ends of one connection: `near` counts as the one who dialed.
pub async fn in_process(near: End<'_>, far: End<'_>) -> (Link, Link) {
    let (here, there) = duplex(PIPE);
    let dialed = over(here, Direction::Dialed, near.options, near.tracker, near.cancel);
    let accepted = over(there, Direction::Accepted, far.options, far.tracker, far.cancel);
    tokio::join!(dialed, accepted)
}

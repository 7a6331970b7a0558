//! Links: frames both ways over one WebSocket connection, with bounded queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::LinkLost;
use crate::metered::Metered;
use crate::pump::pump;

/// What one WebSocket message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

impl Frame {
    /// The payload's size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Limits and times of a link.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Bytes of an incoming message at most; a peer that sends more is dropped.
    pub max_message: usize,
    /// Bytes that are read from a peer before it is [admitted](LinkSender::admit). Only its first message is taken until then.
    pub before_admission: usize,
    /// Frames that wait to be sent.
    pub outgoing_frames: usize,
    /// Frames that wait to be taken; beyond that nothing more is read from the connection.
    pub incoming_frames: usize,
    /// Bytes that wait to be taken; one message is read however large it is.
    pub incoming_bytes: usize,
    /// The pause between pings.
    pub ping_interval: Duration,
    /// How long not a single byte may come before the link counts as lost; more than two ping intervals.
    pub idle_timeout: Duration,
    /// How long the peer may refuse to take a single byte.
    pub send_timeout: Duration,
    /// How long connecting and the handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            max_message: 256 << 20,
            // A greeting of 2 MiB, and what goes around it.
            before_admission: (2 << 20) + (64 << 10),
            outgoing_frames: 8,
            incoming_frames: 8,
            incoming_bytes: 8 << 20,
            ping_interval: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(45),
            send_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl LinkOptions {
    /// Small buffers: a node with many peers has one pair for each, and messages of the usual size pass around them.
    pub(crate) fn web_socket(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(32 << 10)
            .write_buffer_size(32 << 10)
            .max_message_size(Some(self.max_message))
            .max_frame_size(Some(self.max_message))
    }
}

/// Who began the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// We did.
    Dialed,
    /// The peer did.
    Accepted,
}

/// Bytes that passed over a link.
#[derive(Debug)]
pub struct Traffic {
    /// How many bytes may be read before the peer is admitted.
    before_admission: u64,
    admitted: CancellationToken,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    pub(crate) fn new(options: &LinkOptions) -> Self {
        Self {
            before_admission: options.before_admission as u64,
            admitted: CancellationToken::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Whether the peer has sent more than it may.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.bytes_read() > self.before_admission && !self.admitted.is_cancelled()
    }

    /// Waits until the peer is admitted.
    pub(crate) async fn admission(&self) {
        self.admitted.cancelled().await;
    }

    /// Payload bytes received, in whole messages.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Payload bytes sent.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Bytes read from the connection, whether or not they make up a message yet.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the connection took.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn count_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A connection with a peer. It closes, after sending what is queued, when its sender is dropped.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
}

impl Link {
    /// The two directions, to be used side by side.
    pub fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a link.
#[derive(Debug, Clone)]
pub struct LinkSender {
    frames: mpsc::Sender<Frame>,
    direction: Direction,
    traffic: Arc<Traffic>,
}

impl LinkSender {
    /// Queues a frame; waits while the queue is full. False if the link is gone.
    pub async fn send(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    /// Whether a frame can be queued without waiting. True also when the link is gone.
    pub fn has_room(&self) -> bool {
        self.frames.capacity() > 0
    }

    /// Waits until a frame can be queued. False if the link is gone.
    pub async fn room(&self) -> bool {
        self.frames.reserve().await.is_ok()
    }

    /// Takes what the peer sends after its first message, and as much as it sends: it has said who it is.
    pub fn admit(&self) {
        self.traffic.admitted.cancel();
    }

    /// Who began the connection.
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// What has passed.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

/// A frame that waits to be taken, and its share of what may wait.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) frame: Frame,
    pub(crate) _share: OwnedSemaphorePermit,
}

/// The receiving half of a link.
#[derive(Debug)]
pub struct LinkReceiver {
    frames: mpsc::Receiver<Incoming>,
    lost: watch::Receiver<Option<LinkLost>>,
}

impl LinkReceiver {
    /// The next frame; none once the link is gone.
    pub async fn recv(&mut self) -> Option<Frame> {
        self.frames.recv().await.map(|incoming| incoming.frame)
    }

    /// Waits until the link is gone and tells why.
    pub async fn lost(&mut self) -> LinkLost {
        match self.lost.wait_for(Option::is_some).await {
            Ok(lost) => lost.clone().unwrap_or(LinkLost::Ended),
            Err(_) => LinkLost::Ended,
        }
    }
}

/// A link over any stream that has passed the WebSocket handshake. Its one task runs on `tracker` until either side
/// closes or `cancel` is cancelled; what is queued by then is still sent, if the peer takes it within a few seconds.
pub async fn over<S>(
    stream: S,
    direction: Direction,
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Link
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let role = match direction {
        Direction::Dialed => Role::Client,
        Direction::Accepted => Role::Server,
    };
    let traffic = Arc::new(Traffic::new(options));
    let stream = Metered::new(stream, Arc::clone(&traffic));
    let socket = WebSocketStream::from_raw_socket(stream, role, Some(options.web_socket())).await;
    start(socket, traffic, direction, options, tracker, cancel)
}

/// Starts the task of a link.
pub(crate) fn start<S>(
    socket: WebSocketStream<S>,
    traffic: Arc<Traffic>,
    direction: Direction,
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Link
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (frames, to_send) = mpsc::channel(options.outgoing_frames);
    let (taken, incoming) = mpsc::channel(options.incoming_frames);
    let (lost_sender, lost) = watch::channel(None);
    let counted = Arc::clone(&traffic);
    let options = options.clone();
    tracker.spawn(async move {
        let reason = pump(socket, to_send, taken, &options, &counted, &cancel).await;
        // Nobody may be left to hear it.
        let _ = lost_sender.send(Some(reason));
    });
    Link { sender: LinkSender { frames, direction, traffic }, receiver: LinkReceiver { frames: incoming, lost } }
}

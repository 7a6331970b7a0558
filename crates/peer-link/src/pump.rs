//! The one task of a link: writes what is queued, reads what comes, pings, and notices when the peer is gone.
//!
//! Reading and writing go on side by side: two peers that both only wrote would wait for each other for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::error::LinkLost;
use crate::link::{Frame, Incoming, LinkOptions, Traffic};

/// How long the peer may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the peer may take to take what is queued, and to answer a close, once the link is cancelled.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Frames that are written before they are flushed.
const FEED: usize = 32;

/// Pumps until the link is gone; tells why.
pub(crate) async fn pump<S>(
    socket: WebSocketStream<S>,
    outgoing: mpsc::Receiver<Frame>,
    incoming: mpsc::Sender<Incoming>,
    options: &LinkOptions,
    traffic: &Traffic,
    cancel: &CancellationToken,
) -> LinkLost
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(LEAVE_TIMEOUT).await;
    };
    tokio::select! {
        lost = talk(socket, outgoing, incoming, options, traffic, cancel) => lost,
        () = overdue => LinkLost::Closed,
    }
}

async fn talk<S>(
    socket: WebSocketStream<S>,
    outgoing: mpsc::Receiver<Frame>,
    incoming: mpsc::Sender<Incoming>,
    options: &LinkOptions,
    traffic: &Traffic,
    cancel: &CancellationToken,
) -> LinkLost
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let mut reading = std::pin::pin!(read(&mut stream, &incoming, options, traffic));
    let written = {
        let writing = write(&mut sink, outgoing, options, traffic, cancel);
        tokio::select! {
            lost = &mut reading => return lost,
            written = writing => written,
        }
    };
    match written {
        Err(lost) => lost,
        // Everything is sent and the goodbye with it: the peer's answer ends the reading.
        Ok(()) => {
            let _ = timeout(CLOSE_TIMEOUT, reading).await;
            LinkLost::Closed
        }
    }
}

async fn write<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    mut outgoing: mpsc::Receiver<Frame>,
    options: &LinkOptions,
    traffic: &Traffic,
    cancel: &CancellationToken,
) -> Result<(), LinkLost>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval_at(Instant::now() + options.ping_interval, options.ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut frames = Vec::with_capacity(FEED);
    loop {
        let open = tokio::select! {
            count = outgoing.recv_many(&mut frames, FEED) => count > 0,
            _ = pings.tick() => {
                taken(options.send_timeout, traffic, sink.send(Message::Ping(Bytes::new()))).await?;
                continue;
            }
            () = cancel.cancelled() => {
                outgoing.close();
                while let Some(frame) = outgoing.recv().await {
                    frames.push(frame);
                }
                false
            }
        };
        for frame in frames.drain(..) {
            traffic.count_out(frame.len());
            let message = match frame {
                Frame::Text(text) => Message::text(text),
                Frame::Binary(bytes) => Message::Binary(bytes),
            };
            taken(options.send_timeout, traffic, sink.feed(message)).await?;
        }
        taken(options.send_timeout, traffic, sink.flush()).await?;
        if !open {
            return taken(CLOSE_TIMEOUT, traffic, sink.send(Message::Close(None))).await;
        }
    }
}

/// Waits for what is written. A large message over a slow connection takes as long as it takes: only a peer that takes
/// nothing at all is given up.
async fn taken(
    limit: Duration,
    traffic: &Traffic,
    writing: impl Future<Output = Result<(), Error>>,
) -> Result<(), LinkLost> {
    let progress = || traffic.bytes_written();
    match while_moving(limit, progress, writing).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(lost_by(error)),
        None => Err(LinkLost::Stalled(limit)),
    }
}

/// Waits for `work` as long as `progress` grows within each `limit`; none if it did not.
async fn while_moving<T>(limit: Duration, progress: impl Fn() -> u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = progress();
        match timeout(limit, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if progress() == before => return None,
            Err(_) => {}
        }
    }
}

async fn read<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    incoming: &mpsc::Sender<Incoming>,
    options: &LinkOptions,
    traffic: &Traffic,
) -> LinkLost
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let room = Arc::new(Semaphore::new(options.incoming_bytes.min(Semaphore::MAX_PERMITS)));
    loop {
        // Pings of ours are answered, so a peer that is alive is heard.
        let Some(next) = while_moving(options.idle_timeout, || traffic.bytes_read(), stream.next()).await else {
            return LinkLost::Idle(options.idle_timeout);
        };
        let frame = match next {
            Some(Ok(Message::Text(text))) => Frame::Text(text.as_str().to_owned()),
            Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
            Some(Ok(Message::Close(close))) => {
                return close.map_or(LinkLost::ClosedByPeer { code: 1005, reason: String::new() }, |close| {
                    LinkLost::ClosedByPeer { code: close.code.into(), reason: close.reason.as_str().to_owned() }
                });
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(error)) => return lost_by(error),
            None => return LinkLost::Ended,
        };
        traffic.count_in(frame.len());
        let share = u32::try_from(frame.len().min(options.incoming_bytes)).unwrap_or(u32::MAX);
        // It is never closed.
        let Ok(share) = Arc::clone(&room).acquire_many_owned(share).await else { return LinkLost::Closed };
        // Once nobody takes what comes, it is read on for the peer's goodbye alone.
        let _ = incoming.send(Incoming { frame, _share: share }).await;
        // A peer that nobody knows yet is not read on from: what it sends would wait here.
        tokio::select! {
            () = traffic.admission() => {}
            () = incoming.closed() => {}
        }
    }
}

fn lost_by(error: Error) -> LinkLost {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => LinkLost::Closed,
        Error::Io(error) => LinkLost::Io(Arc::new(error)),
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => LinkLost::TooLarge { limit: max_size },
        other => {
            let text = other.to_string();
            if text.contains("without closing handshake") { LinkLost::Ended } else { LinkLost::Protocol(text) }
        }
    }
}

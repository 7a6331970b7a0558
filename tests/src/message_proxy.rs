//! A relay between daemons that treats whole messages as a bad one does: some are late and overtaken by others, some come twice,
//! some do not come at all, and links end between two messages.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use replication::message::SUBPROTOCOL;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};
use tokio_util::sync::CancellationToken;

use crate::Result;

type Socket = WebSocketStream<TcpStream>;

/// A port of its own that leads to another one.
pub struct MessageProxy {
    port: u16,
    relay: Arc<Relay>,
    over: CancellationToken,
    running: Option<JoinHandle<()>>,
}

struct Relay {
    target: u16,
    seed: u64,
    bad: AtomicBool,
    links: AtomicU64,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    dropped: AtomicU64,
    repeated: AtomicU64,
    overtaken: AtomicU64,
    cut: AtomicU64,
}

impl MessageProxy {
    /// A bad relay in front of a port; equal seeds treat the links alike.
    ///
    /// # Errors
    /// No port or thread can be had.
    pub fn before(target: u16, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (links, faults) = (AtomicU64::new(0), Faults::default());
        let relay = Arc::new(Relay { target, seed, bad: AtomicBool::new(true), links, faults });
        let over = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (serving, stop) = (Arc::clone(&relay), over.clone());
        let running = std::thread::spawn(move || {
            // Dropping the runtime ends the links.
            runtime.block_on(async {
                tokio::select! {
                    () = serving.listen(listener) => {}
                    () = stop.cancelled() => {}
                }
            });
        });
        Ok(Self { port, relay, over, running: Some(running) })
    }

    /// What a daemon is to dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// How many messages it has dropped, repeated, and let be overtaken, and how many links it has cut.
    #[must_use]
    pub fn faults(&self) -> [u64; 4] {
        let faults = &self.relay.faults;
        [&faults.dropped, &faults.repeated, &faults.overtaken, &faults.cut].map(|count| count.load(Ordering::SeqCst))
    }

    /// From now on every message passes once and in order.
    pub fn calm(&self) {
        self.relay.bad.store(false, Ordering::SeqCst);
    }
}

impl Drop for MessageProxy {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

impl Relay {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((near, _)) = listener.accept().await {
            let number = self.links.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(Arc::clone(&self).link(near, number));
        }
    }

    /// One link, until either end or its fate ends it.
    async fn link(self: Arc<Self>, near: TcpStream, number: u64) {
        let Some((near, far)) = self.join(near).await else { return };
        let mut random = fastrand::Rng::with_seed(self.seed ^ (number << 8));
        // Some end within their first messages.
        let messages = if random.u8(..4) == 0 { random.usize(1..6) } else { random.usize(20..400) };
        let [(to_near, from_near), (to_far, from_far)] = [near, far].map(futures::StreamExt::split);
        let there = self.pass(from_near, to_far, messages, random.fork());
        let back = self.pass(from_far, to_near, messages, random.fork());
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    }

    /// Takes a link in, and dials the other end.
    #[expect(clippy::result_large_err, reason = "the type of the callback is the WebSocket library's")]
    async fn join(&self, near: TcpStream) -> Option<(Socket, Socket)> {
        let url = format!("ws://127.0.0.1:{}", self.target);
        let mut request = url.into_client_request().ok()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let far = TcpStream::connect(("127.0.0.1", self.target)).await.ok()?;
        near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).ok()?;
        let (far, _) = client_async(request, far).await.ok()?;
        let agree = |_: &Request, mut response: Response| {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        };
        let near = accept_hdr_async(near, agree).await.ok()?;
        Some((near, far))
    }

    /// Passes one direction of a link.
    async fn pass(
        &self,
        mut from: SplitStream<Socket>,
        mut to: SplitSink<Socket, Message>,
        mut messages: usize,
        mut random: fastrand::Rng,
    ) {
        let mut late: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
        let mut count = 0;
        loop {
            let due = late.keys().next().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let Some((_, message)) = late.pop_first() else { continue };
                    if to.send(message).await.is_err() {
                        return;
                    }
                }
                next = from.next() => {
                    let Some(Ok(message)) = next else { return };
                    if !matches!(message, Message::Text(_) | Message::Binary(_)) {
                        continue;
                    }
                    let bad = self.bad.load(Ordering::SeqCst);
                    if bad && messages == 0 {
                        self.faults.cut.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    messages = messages.saturating_sub(1);
                    for delay in self.copies(bad, &mut random) {
                        let at = Instant::now() + delay;
                        if late.keys().next_back().is_some_and(|(last, _)| *last > at) {
                            self.faults.overtaken.fetch_add(1, Ordering::SeqCst);
                        }
                        count += 1;
                        late.insert((at, count), message.clone());
                    }
                }
            }
        }
    }

    /// How often a message comes, and how late.
    fn copies(&self, bad: bool, random: &mut fastrand::Rng) -> Vec<Duration> {
        let mut copies = vec![Duration::ZERO];
        if bad && random.u8(..12) == 0 {
            self.faults.dropped.fetch_add(1, Ordering::SeqCst);
            copies.clear();
        } else if bad && random.u8(..8) == 0 {
            self.faults.repeated.fetch_add(1, Ordering::SeqCst);
            copies.push(Duration::from_millis(random.u64(..300)));
        }
        for copy in &mut copies {
            if bad && random.u8(..4) == 0 {
                *copy += Duration::from_millis(random.u64(..60));
            }
        }
        copies
    }
}

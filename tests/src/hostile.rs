//! A peer that speaks the protocol, and says in it whatever a test wants.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use replication::codec::{Encoded, Limits, decode_binary, decode_text, encode};
use replication::message::{Changes, DatabaseHello, Envelope, Hello, Message, PROTOCOL_VERSION, SUBPROTOCOL};
use replication::{Batch, Origin, VersionVector};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, WebSocket, client::client_with_config};

use crate::{DEADLINE, Failure, Result};

/// How long one look for a message takes.
const LOOK: Duration = Duration::from_millis(50);

/// A link to a daemon, and the name under which this end speaks.
pub struct HostilePeer {
    socket: WebSocket<TcpStream>,
    node: String,
    /// Numbers its batches.
    batches: u64,
}

impl HostilePeer {
    /// Connects to the daemon at a port; nothing is said yet.
    ///
    /// # Errors
    /// Nobody takes the link.
    pub fn connect(port: u16, node: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut request = format!("ws://127.0.0.1:{port}").into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let unlimited = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = client_with_config(request, stream, Some(unlimited))
            .map_err(|error| Failure::new(format!("no link to port {port}: {error}")))?;
        socket.get_ref().set_read_timeout(Some(LOOK))?;
        Ok(Self { socket, node: node.to_owned(), batches: 0 })
    }

    /// Connects and says hello with one database; returns what the daemon says of that.
    ///
    /// # Errors
    /// The daemon does not greet.
    pub fn greeted(port: u16, node: &str, database: &str, own: DatabaseHello) -> Result<(Self, DatabaseHello)> {
        let mut peer = Self::connect(port, node)?;
        peer.say(Message::Hello(hello(node, BTreeMap::from([(database.to_owned(), own)]))))?;
        let theirs = peer.hear("the daemon greets", |message| match message {
            Message::Hello(mut hello) => hello.databases.remove(database),
            _ => None,
        })?;
        Ok((peer, theirs))
    }

    /// Says something in the protocol.
    ///
    /// # Errors
    /// The link is gone.
    pub fn say(&mut self, message: Message) -> Result {
        let envelope = Envelope { from: self.node.clone(), to: None, message };
        match encode(&envelope)? {
            Encoded::Text(text) => self.send(tungstenite::Message::text(text)),
            Encoded::Binary(bytes) => self.send(tungstenite::Message::binary(bytes)),
        }
    }

    /// Sends a batch in one part.
    ///
    /// # Errors
    /// The link is gone.
    pub fn send_batch(&mut self, database: &str, rows: Batch) -> Result {
        self.batches += 1;
        let (database, batch) = (database.to_owned(), self.batches);
        self.say(Message::Changes(Changes { database, batch, part: 0, last: true, rows }))
    }

    /// Sends a WebSocket message.
    ///
    /// # Errors
    /// The link is gone.
    pub fn send(&mut self, message: tungstenite::Message) -> Result {
        self.socket.send(message).map_err(|error| Failure::new(format!("the link is gone: {error}")))
    }

    /// Sends bytes beneath WebSocket.
    ///
    /// # Errors
    /// The link is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result {
        Ok(self.socket.get_mut().write_all(bytes)?)
    }

    /// Awaits a message.
    ///
    /// # Errors
    /// It does not come, or the link ends before.
    #[track_caller]
    pub fn hear<T>(&mut self, what: &str, mut wanted: impl FnMut(Message) -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            match self.next()? {
                Some(message) => {
                    if let Some(found) = wanted(message) {
                        return Ok(found);
                    }
                }
                None => return Err(Failure::new(format!("the link ended before: {what}"))),
            }
        }
        Err(Failure::new(format!("not within {DEADLINE:?}: {what}")))
    }

    /// Awaits that the daemon ends the link; returns the problems that it named before.
    ///
    /// # Errors
    /// It does not.
    #[track_caller]
    pub fn dropped(&mut self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            match self.next()? {
                Some(Message::Problem(problem)) => problems.push(problem.text),
                Some(_) => {}
                None => return Ok(problems),
            }
        }
        Err(Failure::new(format!("the daemon keeps the link; it said {problems:?}")))
    }

    /// The next message, waiting for it; none once the link is gone.
    fn next(&mut self) -> Result<Option<Message>> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let limits = Limits::default();
            let envelope = match self.socket.read() {
                Ok(tungstenite::Message::Text(text)) => decode_text(&text, &limits)?,
                Ok(tungstenite::Message::Binary(bytes)) => decode_binary(&bytes, &limits)?,
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => return Ok(None),
            };
            return Ok(Some(envelope.message));
        }
        Err(Failure::new(format!("nothing was heard within {DEADLINE:?}")))
    }
}

/// A greeting of a node with these databases.
#[must_use]
pub fn hello(node: &str, databases: BTreeMap<String, DatabaseHello>) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        cluster: "default".to_owned(),
        node: node.to_owned(),
        incarnation: 1,
        version: "0".to_owned(),
        clock_millis: 0,
        read_only: false,
        databases,
    }
}

/// A batch without rows that claims to know `context` and rests on nothing.
#[must_use]
pub fn claim(source: Origin, context: VersionVector) -> Batch {
    let (from, dropped) = (VersionVector::new(), VersionVector::new());
    Batch { source, from, to: context.clone(), context, held: 0, dropped, tables: Vec::new() }
}

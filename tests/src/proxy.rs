//! A proxy between daemons that treats what passes as a bad network does: it comes in pieces of any size and with pauses, links
//! end after any byte, and some stay open for a while when nothing passes any more.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;

/// How often a silent link looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// How long a link on which nothing passes stays open.
const SILENCE: Duration = Duration::from_secs(3);

/// A port of its own that leads to another one.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    listening: Option<JoinHandle<()>>,
}

struct Network {
    target: u16,
    seed: u64,
    bad: AtomicBool,
    over: AtomicBool,
    links: AtomicU64,
    cuts: AtomicU64,
}

/// What becomes of one link.
#[derive(Clone, Copy)]
struct Fate {
    /// It ends after so many bytes of one direction.
    bytes: usize,
    /// It ends, or falls silent, after this.
    lasts: Duration,
    /// Nothing passes any more, and it stays open for a while.
    falls_silent: bool,
}

impl Fate {
    fn drawn(random: &mut fastrand::Rng) -> Self {
        // Some end within their first messages, the others in the middle of whatever there is.
        let bytes = if random.u8(..3) == 0 { random.usize(1..4000) } else { usize::MAX };
        Self { bytes, lasts: Duration::from_millis(random.u64(200..2000)), falls_silent: random.u8(..8) == 0 }
    }
}

impl Proxy {
    /// A bad network in front of a port; equal seeds treat the links alike.
    ///
    /// # Errors
    /// No port can be had.
    pub fn before(target: u16, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (bad, over) = (AtomicBool::new(true), AtomicBool::new(false));
        let (links, cuts) = (AtomicU64::new(0), AtomicU64::new(0));
        let network = Arc::new(Network { target, seed, bad, over, links, cuts });
        let listening = {
            let network = Arc::clone(&network);
            std::thread::spawn(move || network.listen(&listener))
        };
        Ok(Self { port, network, listening: Some(listening) })
    }

    /// What a daemon is to dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// How many links it has broken.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.network.cuts.load(Ordering::SeqCst)
    }

    /// From now on everything passes. Links that fell silent end.
    pub fn calm(&self) {
        self.network.bad.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.over.store(true, Ordering::SeqCst);
        // It waits for a link.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Network {
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        let mut links = Vec::new();
        while let Ok((near, _)) = listener.accept() {
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            let Ok(far) = TcpStream::connect(("127.0.0.1", self.target)) else { continue };
            let number = self.links.fetch_add(1, Ordering::SeqCst);
            let fate = Fate::drawn(&mut fastrand::Rng::with_seed(self.seed ^ (number << 8)));
            for (direction, streams) in [(1, (&near, &far)), (2, (&far, &near))] {
                let (Ok(from), Ok(to)) = (streams.0.try_clone(), streams.1.try_clone()) else { continue };
                let random = fastrand::Rng::with_seed(self.seed ^ (number << 8) ^ direction);
                let network = Arc::clone(self);
                links.push(std::thread::spawn(move || network.pass(from, to, fate, random)));
            }
        }
        links.into_iter().for_each(|link| drop(link.join()));
    }

    /// Passes one direction of a link, until either end or its fate ends it.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, fate: Fate, mut random: fastrand::Rng) {
        let begun = Instant::now();
        let mut piece = vec![0; 64 << 10];
        let (mut passed, mut silent) = (0, false);
        let end = |streams: [&TcpStream; 2]| streams.map(|stream| drop(stream.shutdown(Shutdown::Both)));
        if from.set_read_timeout(Some(LOOK)).is_err() {
            return;
        }
        while !self.over.load(Ordering::SeqCst) {
            let bad = self.bad.load(Ordering::SeqCst);
            if silent && (!bad || begun.elapsed() >= fate.lasts + SILENCE) {
                break;
            }
            let most = if bad { random.usize(1..piece.len()) } else { piece.len() };
            let read = match from.read(&mut piece[..most]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(_) => break,
            };
            let is_due = bad && (begun.elapsed() >= fate.lasts || passed + read >= fate.bytes);
            if is_due && !silent {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                silent = fate.falls_silent;
                if !silent {
                    // What comes last comes in part.
                    let _ = to.write_all(&piece[..random.usize(..=read)]);
                    break;
                }
            }
            if silent {
                continue;
            }
            if bad && random.u8(..16) == 0 {
                std::thread::sleep(Duration::from_millis(random.u64(1..100)));
            }
            if to.write_all(&piece[..read]).is_err() {
                break;
            }
            passed += read;
        }
        end([&from, &to]);
    }
}

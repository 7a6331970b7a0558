//! Links over in-process pipes and over real sockets.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use peer_link::{
    Credentials, DialError, Direction, End, Frame, Link, LinkLost, LinkOptions, LinkReceiver, LinkSender, dial,
    in_process, over,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SUBPROTOCOL: &str = "test.v1";

/// Two ends of a pipe of `buffer` bytes, each a link.
struct Pair {
    ends: [(LinkSender, LinkReceiver); 2],
    tracker: TaskTracker,
    cancel: CancellationToken,
}

async fn pair(options: [LinkOptions; 2], buffer: usize) -> Pair {
    let (near, far) = tokio::io::duplex(buffer);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let dialed = over(near, Direction::Dialed, &options[0], &tracker, cancel.clone()).await.split();
    let accepted = over(far, Direction::Accepted, &options[1], &tracker, CancellationToken::new()).await.split();
    dialed.0.admit();
    accepted.0.admit();
    Pair { ends: [dialed, accepted], tracker, cancel }
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}

#[tokio::test]
async fn frames_pass_both_ways_in_order() {
    let Pair { ends: [(a, mut from_b), (b, mut from_a)], tracker, .. } = pair(Default::default(), 64 << 10).await;
    let large = Frame::Binary(Bytes::from(vec![7; 10 << 20]));
    let sending = async {
        for number in 0..100 {
            assert!(a.send(text(&number.to_string())).await);
        }
        assert!(a.send(large.clone()).await);
    };
    let receiving = async {
        for number in 0..100 {
            assert_eq!(from_a.recv().await.unwrap(), text(&number.to_string()));
        }
        assert_eq!(from_a.recv().await.unwrap(), large);
    };
    tokio::join!(sending, receiving);
    assert!(b.send(text("back")).await);
    assert_eq!(from_b.recv().await.unwrap(), text("back"));
    assert!(a.traffic().bytes_out() >= 10 << 20);
    assert_eq!(a.traffic().bytes_in(), 4);
    drop((a, b, from_a, from_b));
    tracker.close();
    tracker.wait().await;
}

#[tokio::test]
async fn what_is_queued_arrives_before_the_goodbye() {
    let Pair { ends: [(a, mut from_b), (_b, mut from_a)], cancel, .. } = pair(Default::default(), 64 << 10).await;
    for number in 0..5 {
        assert!(a.send(text(&number.to_string())).await);
    }
    cancel.cancel();
    for number in 0..5 {
        assert_eq!(from_a.recv().await.unwrap(), text(&number.to_string()));
    }
    assert!(from_a.recv().await.is_none());
    assert!(matches!(from_a.lost().await, LinkLost::ClosedByPeer { .. }));
    assert!(from_b.recv().await.is_none());
    assert!(!a.send(text("late")).await);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_kept_and_a_silent_one_is_dropped() {
    let Pair { ends: [(_a, mut from_b), (_b, _from_a)], .. } = pair(Default::default(), 64 << 10).await;
    let kept = tokio::time::timeout(Duration::from_secs(600), from_b.recv()).await;
    assert!(kept.is_err(), "the link was lost");

    let (near, _far) = tokio::io::duplex(64 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let link = over(near, Direction::Dialed, &LinkOptions::default(), &tracker, cancel).await;
    let (_sender, mut receiver) = link.split();
    assert!(receiver.recv().await.is_none());
    assert!(matches!(receiver.lost().await, LinkLost::Idle(_)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_dropped_and_costs_a_bounded_queue() {
    let (near, _far) = tokio::io::duplex(1 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions { idle_timeout: Duration::from_secs(3600), ..LinkOptions::default() };
    let (sender, mut receiver) = over(near, Direction::Dialed, &options, &tracker, cancel).await.split();
    let mut sent = 0;
    while sender.send(Frame::Binary(Bytes::from(vec![0; 64 << 10]))).await {
        sent += 1;
        assert!(sent < 200, "the queue has no bound");
    }
    assert!(matches!(receiver.lost().await, LinkLost::Stalled(_)));
}

/// A kilobyte a second, until either end is gone.
async fn slowly(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut bytes = [0; 1 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_message_over_a_slow_connection_takes_its_time() {
    let ((near, near_end), (far_end, far)) = (tokio::io::duplex(1 << 10), tokio::io::duplex(1 << 10));
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions::default();
    let (sender, _kept) = over(near, Direction::Dialed, &options, &tracker, cancel.clone()).await.split();
    let (_back, mut receiver) = over(far, Direction::Accepted, &options, &tracker, cancel).await.split();
    let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near_end), tokio::io::split(far_end));
    tracker.spawn(slowly(from_near, to_far));
    tracker.spawn(slowly(from_far, to_near));
    let message = Frame::Binary(Bytes::from(vec![7; 300 << 10]));
    assert!(sender.send(message.clone()).await);
    assert_eq!(receiver.recv().await, Some(message));
    assert!(sender.traffic().bytes_out() >= 300 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_link_does_not_wait_for_a_peer_that_takes_nothing() {
    let (near, _far) = tokio::io::duplex(1 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions { send_timeout: Duration::from_secs(3600), ..LinkOptions::default() };
    let (sender, mut receiver) = over(near, Direction::Dialed, &options, &tracker, cancel.clone()).await.split();
    assert!(sender.send(Frame::Binary(Bytes::from(vec![0; 64 << 10]))).await);
    cancel.cancel();
    let lost = tokio::time::timeout(Duration::from_secs(10), receiver.lost()).await;
    assert!(matches!(lost, Ok(LinkLost::Closed)), "{lost:?}");
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_link() {
    let small = LinkOptions { max_message: 1 << 10, ..LinkOptions::default() };
    let Pair { ends: [(a, _from_b), (_b, mut from_a)], .. } = pair([LinkOptions::default(), small], 64 << 10).await;
    assert!(a.send(Frame::Binary(Bytes::from(vec![0; 4 << 10]))).await);
    assert!(from_a.recv().await.is_none());
    assert!(matches!(from_a.lost().await, LinkLost::TooLarge { limit: 1024 }));
}

/// An HTTP server that upgrades whoever offers `subprotocol`; the links come out of the channel.
async fn server(subprotocol: &'static str) -> (String, mpsc::Receiver<Link>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/sync", listener.local_addr().unwrap());
    let (links, taken) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let links = links.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let links = links.clone();
                async move {
                    let answer = match peer_link::upgrade(&mut request, Some(subprotocol), &LinkOptions::default()) {
                        Ok((response, pending)) => {
                            tokio::spawn(async move {
                                let link = pending.establish(&TaskTracker::new(), CancellationToken::new()).await;
                                let _ = links.send(link.unwrap()).await;
                            });
                            response.map(|()| String::new())
                        }
                        Err(error) => Response::builder().status(error.status()).body(error.to_string()).unwrap(),
                    };
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    (url, taken)
}

async fn dial_once(url: &str) -> Result<Link, DialError> {
    let options = LinkOptions { handshake_timeout: Duration::from_secs(5), ..LinkOptions::default() };
    let (credentials, tracker) = (Credentials::default(), TaskTracker::new());
    let dialed = dial(url, SUBPROTOCOL, &credentials, &options, &tracker, CancellationToken::new());
    dialed.await.map(|(link, _)| link)
}

#[tokio::test]
async fn a_dialed_server_becomes_a_link() {
    let (url, mut links) = server(SUBPROTOCOL).await;
    let (dialed, _from_server) = dial_once(&url).await.unwrap().split();
    let (accepted, mut from_client) = links.recv().await.unwrap().split();
    assert_eq!((dialed.direction(), accepted.direction()), (Direction::Dialed, Direction::Accepted));
    assert!(dialed.send(text("first")).await);
    assert_eq!(from_client.recv().await.unwrap(), text("first"));
}

#[tokio::test]
async fn what_cannot_be_dialed_says_why() {
    let (other, _links) = server("other.v9").await;
    assert!(matches!(dial_once(&other).await, Err(DialError::Status { status: 400, .. })));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(dial_once(&format!("ws://{closed}")).await, Err(DialError::Connect { .. })));
    for url in ["", "oslo", "http://127.0.0.1:1", "ws://"] {
        let error = dial_once(url).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("ws://"), "{url:?}: {error}");
    }
    assert!(matches!(dial_once("wss://127.0.0.1:1").await, Err(DialError::Connect { .. })));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let options = LinkOptions { handshake_timeout: Duration::from_millis(200), ..LinkOptions::default() };
    let answer =
        dial(&url, SUBPROTOCOL, &Credentials::default(), &options, &TaskTracker::new(), CancellationToken::new()).await;
    assert!(matches!(answer, Err(DialError::Timeout { .. })));
}

#[tokio::test]
async fn a_peer_is_heard_once_until_it_is_admitted() {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions { before_admission: 4 << 10, ..LinkOptions::default() };
    let (dialed, _from_accepted) = over(near, Direction::Dialed, &options, &tracker, cancel.clone()).await.split();
    let (accepted, mut from_dialed) = over(far, Direction::Accepted, &options, &tracker, cancel).await.split();
    for word in ["hello", "more"] {
        assert!(dialed.send(text(word)).await);
    }
    assert_eq!(from_dialed.recv().await, Some(text("hello")));
    let more = tokio::time::timeout(Duration::from_millis(100), from_dialed.recv()).await;
    assert!(more.is_err(), "{more:?}");
    accepted.admit();
    assert_eq!(from_dialed.recv().await, Some(text("more")));
    assert!(dialed.send(Frame::Binary(Bytes::from(vec![7; 64 << 10]))).await);
    assert_eq!(from_dialed.recv().await.map(|frame| frame.len()), Some(64 << 10));
}

#[tokio::test]
async fn a_stranger_that_sends_much_is_cut_off() {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions { before_admission: 4 << 10, ..LinkOptions::default() };
    let (dialed, _from_accepted) = over(near, Direction::Dialed, &options, &tracker, cancel.clone()).await.split();
    let (_accepted, mut from_dialed) = over(far, Direction::Accepted, &options, &tracker, cancel).await.split();
    assert!(dialed.send(Frame::Binary(Bytes::from(vec![7; 64 << 10]))).await);
    assert_eq!(from_dialed.recv().await, None);
    let lost = from_dialed.lost().await.to_string();
    assert!(lost.contains("before it said who it is"), "{lost}");
}

#[tokio::test]
async fn ports_and_credentials_in_urls_are_looked_at() {
    for url in ["ws://127.0.0.1:99999", "ws://127.0.0.1:abc", "ws://127.0.0.1:", "ws://me:secret@127.0.0.1:1"] {
        let error = dial_once(url).await.unwrap_err();
        assert!(error.is_permanent() && !error.to_string().contains("secret@"), "{url}: {error}");
    }
}

#[tokio::test]
async fn what_waits_to_be_taken_is_bounded_in_bytes() {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let options = LinkOptions { incoming_bytes: 2 << 20, ..LinkOptions::default() };
    let (dialed, _from_accepted) = over(near, Direction::Dialed, &options, &tracker, cancel.clone()).await.split();
    let (accepted, mut from_dialed) = over(far, Direction::Accepted, &options, &tracker, cancel).await.split();
    accepted.admit();
    for _ in 0..8 {
        assert!(dialed.send(Frame::Binary(Bytes::from(vec![7; 1 << 20]))).await);
    }
    let read = |most: u64| {
        let traffic = accepted.traffic();
        async move {
            while traffic.bytes_in() <= most {
                tokio::task::yield_now().await;
            }
        }
    };
    // Two wait, and one more was read and has no room.
    read((3 << 20) - 1).await;
    let more = tokio::time::timeout(Duration::from_millis(200), read(3 << 20)).await;
    assert!(more.is_err(), "{} bytes were read", accepted.traffic().bytes_in());
    // One that is larger than all that may wait is taken by itself.
    for _ in 0..8 {
        assert_eq!(from_dialed.recv().await.map(|frame| frame.len()), Some(1 << 20));
    }
    assert!(dialed.send(Frame::Binary(Bytes::from(vec![7; 5 << 20]))).await);
    assert_eq!(from_dialed.recv().await.map(|frame| frame.len()), Some(5 << 20));
}

#[tokio::test]
async fn two_in_one_process_are_linked_without_a_socket() {
    let (options, tracker, cancels) =
        (LinkOptions::default(), TaskTracker::new(), [0; 2].map(|_| CancellationToken::new()));
    let [near, far] =
        cancels.each_ref().map(|cancel| End { options: &options, tracker: &tracker, cancel: cancel.clone() });
    let (near, far) = in_process(near, far).await;
    let ((a, mut from_b), (b, mut from_a)) = (near.split(), far.split());
    assert_eq!((a.direction(), b.direction()), (Direction::Dialed, Direction::Accepted));
    assert!(a.send(text("there")).await);
    assert_eq!(from_a.recv().await.unwrap(), text("there"));
    b.admit();
    assert!(b.send(text("back")).await);
    assert_eq!(from_b.recv().await.unwrap(), text("back"));
    // What is queued when one end is cancelled still arrives, and both come to their ends.
    assert!(a.send(text("last")).await);
    cancels[0].cancel();
    assert_eq!(from_a.recv().await.unwrap(), text("last"));
    assert!(from_a.recv().await.is_none());
    drop((a, b));
    tracker.close();
    tracker.wait().await;
}

//! Requests that ask for a WebSocket, or for something like it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use bolero::{check, produce_with};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use peer_link::{LinkOptions, check_url, is_upgrade, upgrade};

const NAMES: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::HOST,
];

const VALUES: [&[u8]; 12] = [
    b"upgrade",
    b"WebSocket",
    b"13",
    b"dGhlIHNhbXBsZSBub25jZQ==",
    b"sync-engine.v1",
    b"keep-alive, Upgrade",
    b"other, sync-engine.v1 ,",
    b",,,",
    b"",
    b"\xff\xfe",
    b"upgrade websocket",
    b"13, 13",
];

/// Only a request that asks for all of it is answered by a change of protocols; any other by an error of the client's.
#[test]
fn requests_are_answered_whatever_they_ask() {
    let bytes = produce_with::<Vec<u8>>().len(0_usize..24);
    check!().with_iterations(20_000).with_generator(bytes).for_each(|bytes| {
        let mut request = Request::new(());
        if bytes.len() % 8 == 7 {
            *request.method_mut() = Method::POST;
        }
        for (place, byte) in bytes.iter().enumerate() {
            let name =
                NAMES[if byte % 2 == 0 { place % NAMES.len() } else { usize::from(*byte) % NAMES.len() }].clone();
            let value = VALUES[if byte % 4 == 0 { place % NAMES.len() } else { usize::from(*byte) % VALUES.len() }];
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let asked = is_upgrade(request.headers());
        match upgrade(&mut request, Some("sync-engine.v1"), &LinkOptions::default()) {
            Ok((response, _)) => {
                assert!(asked && request.method() == Method::GET);
                assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
                assert!(request.headers().contains_key(header::SEC_WEBSOCKET_KEY));
            }
            Err(error) => assert!((400..500).contains(&error.status()), "{error}"),
        }
    });
}

#[test]
fn urls_are_refused_or_taken_whatever_they_are() {
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        for url in [text.to_string(), format!("ws://{text}"), format!("ws://[{text}]:1/")] {
            drop(check_url(&url));
        }
    });
}

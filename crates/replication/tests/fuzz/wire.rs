//! Messages of peers.

use bolero::check;
use replication::codec::{CodecError, Encoded, Limits, decode_binary, decode_text, encode};
use replication::message::Envelope;

use crate::alteration::{Script, script};
use crate::corpora::named;

/// The corpora of rows and of control messages.
pub(crate) const ROWS: &str = "wire__rows_that_are_understood_can_be_said_again";
pub(crate) const CONTROL: &str = "wire__control_messages_that_are_understood_can_be_said_again";

pub(crate) const LIMITS: Limits = Limits { control: 1 << 20, body: 1 << 22, structure: 1 << 24 };

pub(crate) fn rows(bytes: &[u8]) -> Result<(), String> {
    said_again(decode_binary(bytes, &LIMITS))
}

pub(crate) fn control(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    said_again(decode_text(text, &LIMITS))
}

/// Whatever a message is found to be, it can be said again, and is the same then.
fn said_again(decoded: Result<Envelope, CodecError>) -> Result<(), String> {
    let envelope = decoded.map_err(|error| error.to_string())?;
    let again = match encode(&envelope).unwrap() {
        Encoded::Text(text) => decode_text(&text, &Limits::default()),
        Encoded::Binary(bytes) => decode_binary(&bytes, &Limits::default()),
    };
    assert_eq!(again, Ok(envelope));
    Ok(())
}

#[test]
fn rows_that_are_understood_can_be_said_again() {
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| drop(rows(bytes)));
}

#[test]
fn control_messages_that_are_understood_can_be_said_again() {
    check!().with_iterations(2_000).for_each(|bytes: &[u8]| drop(control(bytes)));
}

#[test]
fn rows_with_errors_are_refused_or_are_other_rows() {
    let whole = named(ROWS, "real");
    check!().with_iterations(10_000).with_generator(script(64)).for_each(|script| {
        drop(rows(&Script(script).altered(&whole)));
    });
}

#[test]
fn control_messages_with_errors_are_refused_or_are_other_messages() {
    let whole = named(CONTROL, "real");
    check!().with_iterations(5_000).with_generator(script(64)).for_each(|script| {
        drop(control(&Script(script).altered(&whole)));
    });
}

//! Bytes and messages: the wire format.
//!
//! Control messages are tagged JSON, to be read by people. Those that carry rows or keys are binary: a fixed header, then
//! MessagePack, compressed where that helps. Everything decoded is checked: what comes out of here keeps the rules of `row` and
//! `message`, whatever a peer sent. Nothing allocates more than a small multiple of what was received or of
//! [`Limits::body`].

mod changes;
mod control;
mod frame;
mod packed;
mod ranges;
mod reader;
mod rows;

use crate::codec::frame::Kind;
use crate::codec::reader::Reader;
use crate::message::{Envelope, Message};

pub use packed::{PackedBatch, PackedPart};
pub use rows::{decode_row, decode_rows, decode_values, encode_row, encode_rows, encode_values};

/// What a decoder accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a control message.
    pub control: usize,
    /// Bytes of a binary message's body after decompression.
    pub body: usize,
    /// Bytes of memory for what a body is made of, beside the values' own bytes: a NULL is one byte in a message and
    /// many in memory.
    pub structure: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { control: 4 << 20, body: 256 << 20, structure: 64 << 20 }
    }
}

/// A message as a link carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// A control message.
    Text(String),
    /// Rows.
    Binary(Vec<u8>),
}

/// Why bytes are no message. Nothing of them was used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The message ends before it is complete, or a length in it reaches beyond its end.
    #[error("the message is cut off")]
    Truncated,
    /// Something follows the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The message is larger than is allowed.
    #[error("the message has {size} bytes where {limit} are allowed")]
    TooLarge {
        /// Its size, or a lower bound of it.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The binary format is another version's.
    #[error("the rows are in format {0}, which this version does not know")]
    Format(u8),
    /// A control message that is no valid JSON, or not of a known form.
    #[error("no control message: {0}")]
    Control(String),
    /// The compressed body cannot be decompressed.
    #[error("the rows cannot be decompressed")]
    Compression,
    /// A value is not what its place requires.
    #[error("{0}")]
    Invalid(&'static str),
    /// A message that this version cannot put into bytes.
    #[error("{0}")]
    Unencodable(&'static str),
}

/// Puts a message into bytes.
///
/// # Errors
/// [`CodecError::Unencodable`] for what the format cannot hold: a name of more than 4 GiB, or of 128 KiB where rows are compressed.
pub fn encode(envelope: &Envelope) -> Result<Encoded, CodecError> {
    let (from, to) = (envelope.from.as_str(), envelope.to.as_deref());
    let (kind, body) = match &envelope.message {
        Message::Changes(message) => return changes::encode(from, to, message).map(Encoded::Binary),
        Message::Packed(message) => return packed::encode(from, to, message).map(Encoded::Binary),
        Message::Compare(message) => (Kind::Compare, ranges::encode_compare(from, to, message)?),
        Message::Fingerprints(message) => (Kind::Fingerprints, ranges::encode_fingerprints(from, to, message)?),
        _ => return control::encode(envelope).map(Encoded::Text),
    };
    frame::seal(kind, body).map(Encoded::Binary)
}

/// Reads a control message.
///
/// # Errors
/// The text is no control message, or larger than allowed.
pub fn decode_text(text: &str, limits: &Limits) -> Result<Envelope, CodecError> {
    if text.len() > limits.control {
        return Err(CodecError::TooLarge { size: text.len(), limit: limits.control });
    }
    control::decode(text)
}

/// Reads a binary message.
///
/// # Errors
/// The bytes are none, or break a rule of `row` or `reconcile`.
pub fn decode_binary(bytes: &[u8], limits: &Limits) -> Result<Envelope, CodecError> {
    let (kind, body) = frame::open(bytes, limits)?;
    let reader = Reader::new(&body, limits.structure);
    match kind {
        Kind::Changes => changes::decode(reader),
        Kind::Compare => ranges::decode_compare(reader),
        Kind::Fingerprints => ranges::decode_fingerprints(reader),
    }
}

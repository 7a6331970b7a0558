//! Frames of a link are messages of a session: the one place where the two crates meet.

use peer_link::Frame;
use replication::codec::{CodecError, Encoded, Limits, decode_binary, decode_text, encode as encode_message};
use replication::message::Envelope;

/// A message as a frame.
pub(crate) fn encode(envelope: &Envelope) -> Result<Frame, CodecError> {
    Ok(match encode_message(envelope)? {
        Encoded::Text(text) => Frame::Text(text),
        Encoded::Binary(bytes) => Frame::Binary(bytes.into()),
    })
}

/// What is taken before a greeting, which is small, and which has no rows.
const BEFORE_GREETING: Limits = Limits { control: 2 << 20, body: 0, structure: 0 };

/// The message in a frame. Little is taken from a peer that has not said who it is.
pub(crate) fn decode(frame: &Frame, greeted: bool) -> Result<Envelope, CodecError> {
    let limits = if greeted { Limits::default() } else { BEFORE_GREETING };
    match frame {
        Frame::Text(text) => decode_text(text, &limits),
        Frame::Binary(bytes) => decode_binary(bytes, &limits),
    }
}

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

/// The message in a frame.
pub(crate) fn decode(frame: &Frame) -> Result<Envelope, CodecError> {
    match frame {
        Frame::Text(text) => decode_text(text, &Limits::default()),
        Frame::Binary(bytes) => decode_binary(bytes, &Limits::default()),
    }
}

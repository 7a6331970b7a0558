//! What all binary messages have in common: `[kind, compression]`, then a MessagePack body, compressed where that helps.

use std::borrow::Cow;

use crate::codec::{CodecError, Limits};

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Bodies below this are not worth compressing.
const COMPRESS_FROM: usize = 4 << 10;

/// What a binary message is. The number is the format's too: a message of another form gets a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Changes,
    Compare,
    Fingerprints,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Changes => 1,
            Self::Compare => 2,
            Self::Fingerprints => 3,
        }
    }

    fn of(number: u8) -> Result<Self, CodecError> {
        let kinds = [Self::Changes, Self::Compare, Self::Fingerprints];
        kinds.into_iter().find(|kind| kind.number() == number).ok_or(CodecError::Format(number))
    }
}

pub(super) fn seal(kind: Kind, body: Vec<u8>) -> Result<Vec<u8>, CodecError> {
    pack(vec![kind.number()], body)
}

pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Kind, Cow<'a, [u8]>), CodecError> {
    let (&kind, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    Ok((Kind::of(kind)?, unpack(rest, limits)?))
}

/// Adds `[compression]` and the body to what goes before it.
pub(super) fn pack(mut bytes: Vec<u8>, mut body: Vec<u8>) -> Result<Vec<u8>, CodecError> {
    if body.len() >= COMPRESS_FROM
        && let Ok(small) = zstd::bulk::compress(&body, 1)
        && small.len() + 4 < body.len()
    {
        bytes.push(ZSTD);
        let size = u32::try_from(body.len()).map_err(|_| CodecError::Unencodable("a message is larger than 4 GiB"))?;
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&small);
        return Ok(bytes);
    }
    bytes.push(PLAIN);
    bytes.append(&mut body);
    Ok(bytes)
}

/// The body that [`pack`] added.
pub(super) fn unpack<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, CodecError> {
    let (&compression, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    match compression {
        PLAIN => {
            check_size(rest.len(), limits)?;
            Ok(Cow::Borrowed(rest))
        }
        ZSTD => {
            let (size, body) = rest.split_first_chunk().ok_or(CodecError::Truncated)?;
            let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
            check_size(size, limits)?;
            if size > unpacked_at_most(body.len()) {
                return Err(CodecError::Compression);
            }
            let body = zstd::bulk::decompress(body, size).map_err(|_| CodecError::Compression)?;
            Ok(Cow::Owned(body))
        }
        _ => Err(CodecError::Compression),
    }
}

/// What zstd can make of so many bytes: a block takes four or more, and is 128 KiB or less (RFC 8878, section 3.1.1.2). Room for
/// more than that is never made, whatever a message says of its size.
const fn unpacked_at_most(bytes: usize) -> usize {
    (bytes / 4 + 1).saturating_mul(128 << 10)
}

fn check_size(size: usize, limits: &Limits) -> Result<(), CodecError> {
    if size > limits.body { Err(CodecError::TooLarge { size, limit: limits.body }) } else { Ok(()) }
}

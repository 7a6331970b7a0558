//! What all binary messages have in common: `[kind, compression]`, then a MessagePack body, compressed where that helps.

use std::borrow::Cow;
use std::sync::Arc;

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
    Body::of(body).message(kind, &[])
}

pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Kind, Cow<'a, [u8]>), CodecError> {
    let (&kind, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    Ok((Kind::of(kind)?, unpack(rest, limits)?))
}

/// What is in a message, compressed where that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body<T> {
    Plain(T),
    /// A zstd frame, and how many bytes it is made of.
    Zstd(T, usize),
}

impl Body<Vec<u8>> {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() >= COMPRESS_FROM
            && let Ok(small) = zstd::bulk::compress(&bytes, 1)
            && small.len() + 4 < bytes.len()
        {
            return Self::Zstd(small, bytes.len());
        }
        Self::Plain(bytes)
    }

    /// The same to be had by several.
    pub(super) fn shared(self) -> Body<Arc<[u8]>> {
        match self {
            Self::Plain(bytes) => Body::Plain(bytes.into()),
            Self::Zstd(bytes, size) => Body::Zstd(bytes.into(), size),
        }
    }
}

impl<T: AsRef<[u8]>> Body<T> {
    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        let (Self::Plain(bytes) | Self::Zstd(bytes, _)) = self;
        bytes.as_ref().len()
    }

    /// A message whose body is this one after `head`.
    pub(super) fn message(&self, kind: Kind, head: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut message = Vec::with_capacity(32 + head.len() + self.len());
        message.push(kind.number());
        match self {
            Self::Plain(bytes) => {
                message.push(PLAIN);
                message.extend_from_slice(head);
                message.extend_from_slice(bytes.as_ref());
            }
            Self::Zstd(bytes, size) => {
                message.push(ZSTD);
                let size = u32::try_from(head.len() + size);
                let size = size.map_err(|_| CodecError::Unencodable("a message is larger than 4 GiB"))?;
                message.extend_from_slice(&size.to_be_bytes());
                if !head.is_empty() {
                    put_raw_frame(&mut message, head)?;
                }
                message.extend_from_slice(bytes.as_ref());
            }
        }
        Ok(message)
    }

    pub(super) fn unpack(&self, limits: &Limits) -> Result<Cow<'_, [u8]>, CodecError> {
        match self {
            Self::Plain(bytes) => Ok(Cow::Borrowed(bytes.as_ref())),
            Self::Zstd(bytes, size) => decompress(bytes.as_ref(), *size, limits).map(Cow::Owned),
        }
    }
}

/// A zstd frame of one segment, made of a block that is not compressed (RFC 8878, section 3.1.1): for a few bytes that is smaller than
/// what compressing them would give, and takes no time.
fn put_raw_frame(out: &mut Vec<u8>, content: &[u8]) -> Result<(), CodecError> {
    const MAGIC: u32 = 0xFD2F_B528;
    /// `Frame_Content_Size_flag` 2, which is four bytes, and `Single_Segment_flag`.
    const DESCRIPTOR: u8 = 0b1010_0000;
    /// `Block_Maximum_Size`.
    const BLOCK: usize = 128 << 10;
    const LAST_BLOCK: u32 = 1;
    let size = u32::try_from(content.len()).ok().filter(|_| content.len() <= BLOCK);
    let size = size.ok_or(CodecError::Unencodable("names are too long"))?;
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.push(DESCRIPTOR);
    out.extend_from_slice(&size.to_le_bytes());
    // Type 0 is a raw block.
    out.extend_from_slice(&(LAST_BLOCK | size << 3).to_le_bytes()[..3]);
    out.extend_from_slice(content);
    Ok(())
}

/// What follows `kind`: `[compression]`, and the body.
fn unpack<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, CodecError> {
    let (&compression, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    match compression {
        PLAIN => {
            check_size(rest.len(), limits)?;
            Ok(Cow::Borrowed(rest))
        }
        ZSTD => {
            let (size, body) = rest.split_first_chunk().ok_or(CodecError::Truncated)?;
            let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
            decompress(body, size, limits).map(Cow::Owned)
        }
        _ => Err(CodecError::Compression),
    }
}

fn decompress(body: &[u8], size: usize, limits: &Limits) -> Result<Vec<u8>, CodecError> {
    check_size(size, limits)?;
    if size > unpacked_at_most(body.len()) {
        return Err(CodecError::Compression);
    }
    zstd::bulk::decompress(body, size).map_err(|_| CodecError::Compression)
}

/// What zstd can make of so many bytes: a block takes four or more, and is 128 KiB or less (RFC 8878, section 3.1.1.2). Room for
/// more than that is never made, whatever a message says of its size.
const fn unpacked_at_most(bytes: usize) -> usize {
    (bytes / 4 + 1).saturating_mul(128 << 10)
}

fn check_size(size: usize, limits: &Limits) -> Result<(), CodecError> {
    if size > limits.body { Err(CodecError::TooLarge { size, limit: limits.body }) } else { Ok(()) }
}

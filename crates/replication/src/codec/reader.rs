//! Reading MessagePack from untrusted bytes: every length is checked against what is left before it is believed.

use rmp::Marker;

use crate::codec::CodecError;

/// What is left to read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Memory that what is read may still take.
    structure: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], structure: usize) -> Self {
        Self { rest: bytes, structure }
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        self.take(N)?.try_into().map_err(|_| CodecError::Truncated)
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn marker(&mut self) -> Result<Marker, CodecError> {
        Ok(Marker::from_u8(self.byte()?))
    }

    fn big(&mut self, bytes: usize) -> Result<u64, CodecError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// An unsigned integer.
    pub(super) fn unsigned(&mut self) -> Result<u64, CodecError> {
        match self.marker()? {
            Marker::FixPos(n) => Ok(u64::from(n)),
            Marker::U8 => self.big(1),
            Marker::U16 => self.big(2),
            Marker::U32 => self.big(4),
            Marker::U64 => self.big(8),
            _ => Err(CodecError::Invalid("an unsigned integer was expected")),
        }
    }

    /// The rest of an integer whose marker was read.
    pub(super) fn integer(&mut self, marker: Marker) -> Result<i64, CodecError> {
        let too_large = || CodecError::Invalid("an integer is larger than 64 bits hold");
        Ok(match marker {
            Marker::FixPos(n) => i64::from(n),
            Marker::FixNeg(n) => i64::from(n),
            Marker::U8 => i64::from(self.byte()?),
            Marker::U16 => i64::from(u16::from_be_bytes(self.array()?)),
            Marker::U32 => i64::from(u32::from_be_bytes(self.array()?)),
            Marker::U64 => i64::try_from(u64::from_be_bytes(self.array()?)).map_err(|_| too_large())?,
            Marker::I8 => i64::from(i8::from_be_bytes(self.array()?)),
            Marker::I16 => i64::from(i16::from_be_bytes(self.array()?)),
            Marker::I32 => i64::from(i32::from_be_bytes(self.array()?)),
            Marker::I64 => i64::from_be_bytes(self.array()?),
            _ => return Err(CodecError::Invalid("an integer was expected")),
        })
    }

    /// A count of `T`s, of which each takes at least `least` bytes.
    pub(super) fn count<T>(&mut self, least: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.unsigned()?).map_err(|_| CodecError::Truncated)?;
        if count.saturating_mul(least.max(1)) > self.left() {
            return Err(CodecError::Truncated);
        }
        self.make_room::<T>(count)?;
        Ok(count)
    }

    /// Takes the memory of `count` `T`s from what is allowed.
    pub(super) fn make_room<T>(&mut self, count: usize) -> Result<(), CodecError> {
        let wanted = count.saturating_mul(size_of::<T>());
        self.structure =
            self.structure.checked_sub(wanted).ok_or(CodecError::TooLarge { size: wanted, limit: self.structure })?;
        Ok(())
    }

    /// A length that is read as `bytes` big-endian bytes, and as many bytes.
    pub(super) fn sized(&mut self, bytes: usize) -> Result<&'a [u8], CodecError> {
        let length = usize::try_from(self.big(bytes)?).map_err(|_| CodecError::Truncated)?;
        self.take(length)
    }

    /// A string: names, not TEXT.
    pub(super) fn name(&mut self) -> Result<String, CodecError> {
        let bytes = match self.marker()? {
            Marker::FixStr(length) => self.take(usize::from(length))?,
            Marker::Str8 => self.sized(1)?,
            Marker::Str16 => self.sized(2)?,
            Marker::Str32 => self.sized(4)?,
            _ => return Err(CodecError::Invalid("a name was expected")),
        };
        let name = std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid("a name is not UTF-8"))?;
        Ok(name.to_owned())
    }
}

impl<'a> Reader<'a> {
    /// A string, or nil.
    pub(super) fn optional_name(&mut self) -> Result<Option<String>, CodecError> {
        if self.rest.first() == Some(&Marker::Null.to_u8()) {
            self.byte()?;
            return Ok(None);
        }
        self.name().map(Some)
    }

    /// The type and the bytes of an extension whose marker was read; none if the marker is another thing's.
    pub(super) fn extension(&mut self, marker: Marker) -> Result<Option<(i8, &'a [u8])>, CodecError> {
        let length = match marker {
            Marker::FixExt1 => 1,
            Marker::FixExt2 => 2,
            Marker::FixExt4 => 4,
            Marker::FixExt8 => 8,
            Marker::FixExt16 => 16,
            Marker::Ext8 => self.big(1)?,
            Marker::Ext16 => self.big(2)?,
            Marker::Ext32 => self.big(4)?,
            _ => return Ok(None),
        };
        let kind = i8::from_be_bytes(self.array()?);
        let length = usize::try_from(length).map_err(|_| CodecError::Truncated)?;
        Ok(Some((kind, self.take(length)?)))
    }
}

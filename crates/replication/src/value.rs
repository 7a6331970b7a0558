//! One SQL value, exactly as SQLite stores it.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A value of one of SQLite's five storage classes.
///
/// Equality, order and hash go by storage class and bits: `1` and `1.0` differ, `-0.0` and `0.0` differ, and TEXT is
/// compared by its bytes whatever the column's collation. The order is total (NULL, INTEGER, REAL, TEXT, BLOB), so that
/// two nodes that must choose between two values without any other hint choose alike.
#[derive(Debug, Clone)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A double; infinities occur, NaN does not (SQLite stores it as NULL).
    Real(f64),
    /// TEXT as its bytes: SQLite does not check them, so NUL and invalid UTF-8 occur.
    Text(Vec<u8>),
    /// A BLOB.
    Blob(Vec<u8>),
}

impl Value {
    /// The number of bytes that this value takes on the wire, to within a few bytes. Limits are counted with it.
    pub fn wire_size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Integer(_) | Self::Real(_) => 9,
            Self::Text(bytes) | Self::Blob(bytes) => 5 + bytes.len(),
        }
    }

    /// Whether this is SQL NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn class(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) => 1,
            Self::Real(_) => 2,
            Self::Text(_) => 3,
            Self::Blob(_) => 4,
        }
    }
}

/// For people: as SQL would write it, long values shortened.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(n) => n.fmt(f),
            Self::Real(r) => write!(f, "{r:?}"),
            Self::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let shown: String = text.chars().take(SHOWN).collect();
                let rest = if shown.len() < text.len() { "…" } else { "" };
                write!(f, "'{}{rest}'", shown.replace('\'', "''"))
            }
            Self::Blob(bytes) => {
                f.write_str("X'")?;
                bytes.iter().take(SHOWN / 2).try_for_each(|byte| write!(f, "{byte:02X}"))?;
                f.write_str(if bytes.len() > SHOWN / 2 { "…'" } else { "'" })
            }
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            (a, b) => a.class().cmp(&b.class()),
        }
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.class().hash(state);
        match self {
            Self::Null => {}
            Self::Integer(n) => n.hash(state),
            Self::Real(r) => r.to_bits().hash(state),
            Self::Text(bytes) | Self::Blob(bytes) => bytes.hash(state),
        }
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Integer(n)
    }
}

impl From<f64> for Value {
    fn from(r: f64) -> Self {
        Self::Real(r)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn equality_is_by_storage_class_and_bits() {
        assert_ne!(Value::Integer(1), Value::Real(1.0));
        assert_ne!(Value::Real(0.0), Value::Real(-0.0));
        assert_ne!(Value::Text(b"a".to_vec()), Value::Blob(b"a".to_vec()));
        assert_ne!(Value::Text(Vec::new()), Value::Null);
        assert_eq!(Value::Real(f64::INFINITY), Value::Real(f64::INFINITY));
    }
}

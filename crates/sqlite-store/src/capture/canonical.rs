//! Keys in a form in which equal ones have equal bytes.

use replication::Value;

use crate::replica::ReplicaTable;
use crate::schema::Collation;

/// A key by which rows are told apart.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum CanonicalKey {
    /// Most keys are this.
    Integer(i64),
    /// Any other, in its canonical form.
    Other(Vec<Value>),
}

impl CanonicalKey {
    pub(crate) fn of(table: &ReplicaTable, key: &[Value]) -> Self {
        if let [Value::Integer(key)] = key {
            return Self::Integer(*key);
        }
        let canonical = canonical_key(table, key);
        match canonical.as_slice() {
            [Value::Integer(key)] => Self::Integer(*key),
            _ => Self::Other(canonical),
        }
    }
}

/// The form of a key in which two keys that SQLite holds equal are equal by bytes: integral reals as integers, NOCASE
/// text in ASCII lower case, RTRIM text without trailing spaces. Triggers log keys after the column's affinity.
pub(crate) fn canonical_key(table: &ReplicaTable, key: &[Value]) -> Vec<Value> {
    let columns = table.table.key.iter().map(|index| &table.table.columns[*index]);
    key.iter().zip(columns).map(|(value, column)| canonical(value, column.collation)).collect()
}

fn canonical(value: &Value, collation: Collation) -> Value {
    match value {
        Value::Real(real) => integral(*real).map_or_else(|| value.clone(), Value::Integer),
        Value::Text(text) => match collation {
            Collation::Binary => value.clone(),
            Collation::NoCase => Value::Text(text.to_ascii_lowercase()),
            Collation::RTrim => {
                let kept = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                Value::Text(text[..kept].to_vec())
            }
        },
        _ => value.clone(),
    }
}

/// The integer that a real equals exactly, if there is one.
fn integral(real: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real.fract() != 0.0 || !(-LIMIT..LIMIT).contains(&real) {
        return None;
    }
    // Exact: integral and within range.
    #[allow(clippy::cast_possible_truncation)]
    Some(real as i64)
}

//! Rows as JSON, for people: records, events and interfaces. The wire between nodes does not use it.
//!
//! What JSON cannot hold is an object with one key that starts with `$`: `{"$blob": "hex"}`, `{"$text": "hex"}` for TEXT
//! that is not UTF-8, `{"$real": "inf"}`.

use replication::{TableShape, Value};
use serde_json::{Map, Value as Json, json};

/// One value.
pub fn value_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(n) => json!(n),
        Value::Real(r) if r.is_finite() => json!(r),
        Value::Real(r) => json!({ "$real": if *r > 0.0 { "inf" } else { "-inf" } }),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "$text": hex(bytes) }),
        },
        Value::Blob(bytes) => json!({ "$blob": hex(bytes) }),
    }
}

/// A whole row as an object: all columns in the shape's order.
pub fn row_json(shape: &TableShape, values: &[Value]) -> Map<String, Json> {
    shape.columns.iter().cloned().zip(values.iter().map(value_json)).collect()
}

/// A key as an object.
pub fn key_json(shape: &TableShape, key: &[Value]) -> Json {
    let names = shape.key.iter().filter_map(|index| shape.columns.get(usize::from(*index))).cloned();
    Json::Object(names.zip(key.iter().map(value_json)).collect())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// The value that JSON made by [`value_json`] stands for; none for what SQLite has no value for.
pub fn value_from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Integer(i64::from(*truth)),
        Json::Number(number) => match number.as_i64() {
            Some(n) => Value::Integer(n),
            None => Value::Real(number.as_f64()?),
        },
        Json::String(text) => Value::Text(text.clone().into_bytes()),
        Json::Array(_) => return None,
        Json::Object(object) => {
            let (name, inner) = object.iter().next().filter(|_| object.len() == 1)?;
            match (name.as_str(), inner.as_str()?) {
                ("$blob", digits) => Value::Blob(unhex(digits)?),
                ("$text", digits) => Value::Text(unhex(digits)?),
                ("$real", "inf") => Value::Real(f64::INFINITY),
                ("$real", "-inf") => Value::Real(f64::NEG_INFINITY),
                _ => return None,
            }
        }
    })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect())?
}

#[cfg(test)]
mod tests {
    use super::{value_from_json, value_json};
    use replication::Value;

    #[test]
    fn every_value_survives_json() {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Real(0.1),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text(b"a\0b".to_vec()),
            Value::Text(vec![0xff, 0x00]),
            Value::Text(Vec::new()),
            Value::Blob(vec![1, 2, 255]),
            Value::Blob(Vec::new()),
        ];
        for value in values {
            let text = value_json(&value).to_string();
            let back = value_from_json(&serde_json::from_str(&text).unwrap());
            assert_eq!(back, Some(value));
        }
    }
}

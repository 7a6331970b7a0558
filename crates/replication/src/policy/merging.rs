//! Policies that make one value of two. Each is a join (commutative, associative, idempotent), so that nodes which merge
//! again and again come to one value and fall silent.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Conflict, ConflictPolicy, Resolution, Scope};
use crate::value::Value;

/// The larger value stands; NULL counts as none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Maximum;

/// The smaller value stands; NULL counts as none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Minimum;

/// The values are JSON arrays: what stands in either stands in the result, once, in a canonical order. NULL counts as empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Union;

impl ConflictPolicy for Maximum {
    fn name(&self) -> &str {
        "max"
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        conflict.with_values(|a, b| Ok(extreme(a, b, Ordering::Greater)))
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }

    fn settles(&self) -> bool {
        true
    }
}

impl ConflictPolicy for Minimum {
    fn name(&self) -> &str {
        "min"
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        conflict.with_values(|a, b| Ok(extreme(a, b, Ordering::Less)))
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }

    fn settles(&self) -> bool {
        true
    }
}

impl ConflictPolicy for Union {
    fn name(&self) -> &str {
        "union"
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        conflict.with_values(union)
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }

    fn settles(&self) -> bool {
        true
    }
}

fn extreme(a: &Value, b: &Value, wanted: Ordering) -> Value {
    let first = match (a.is_null(), b.is_null()) {
        (true, _) => false,
        (_, true) => true,
        _ => compared(a, b) == wanted,
    };
    if first { a.clone() } else { b.clone() }
}

/// SQLite's order of values, NULL first, numbers by what they are worth, then texts and BLOBs by bytes; and where that makes
/// no difference, as for 1 and 1.0, the order of storage classes and bits: two different values never compare equal.
pub(super) fn compared(a: &Value, b: &Value) -> Ordering {
    let worth = match (a, b) {
        (Value::Integer(a), Value::Real(b)) => integer_to_real(*a, *b),
        (Value::Real(a), Value::Integer(b)) => integer_to_real(*b, *a).reverse(),
        _ => a.cmp(b),
    };
    worth.then_with(|| a.cmp(b))
}

/// Exact, also where the integer has more digits than a double.
fn integer_to_real(integer: i64, real: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real >= LIMIT {
        return Ordering::Less;
    }
    if real < -LIMIT {
        return Ordering::Greater;
    }
    #[allow(clippy::cast_possible_truncation, reason = "within range; what is cut off is compared below")]
    let whole = real.trunc() as i64;
    integer.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&real.fract()).unwrap_or(Ordering::Equal))
}

fn union(a: &Value, b: &Value) -> Result<Value, String> {
    if a.is_null() || b.is_null() {
        return Ok(if a.is_null() { b.clone() } else { a.clone() });
    }
    let mut members = BTreeMap::new();
    for item in array(a)?.into_iter().chain(array(b)?) {
        let item = sorted(item);
        members.insert(item.to_string(), item);
    }
    Ok(Value::Text(Json::Array(members.into_values().collect()).to_string().into_bytes()))
}

fn array(value: &Value) -> Result<Vec<Json>, String> {
    let parsed = match value {
        Value::Text(text) => serde_json::from_slice(text).ok(),
        _ => None,
    };
    match parsed {
        Some(Json::Array(items)) => Ok(items),
        _ => Err(format!("{value} is no JSON array, of which \"union\" could make a set")),
    }
}

/// With the keys of objects in order: the same member is the same text.
fn sorted(item: Json) -> Json {
    match item {
        Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
        Json::Object(fields) => {
            let fields: BTreeMap<String, Json> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Json::Object(fields.into_iter().collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{compared, extreme, union};
    use crate::value::Value;
    use std::cmp::Ordering;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-3_i64..3).prop_map(Value::Integer),
            any::<i64>().prop_map(Value::Integer),
            prop_oneof![Just(f64::INFINITY), Just(-0.0), Just(0.5), (-3_i32..3).prop_map(f64::from), Just(9.3e18)]
                .prop_map(Value::Real),
            "[ab]{0,2}".prop_map(|text| Value::Text(text.into_bytes())),
            Just(Value::Blob(vec![0])),
        ]
    }

    fn set() -> impl Strategy<Value = Value> {
        let item = prop_oneof![
            (0_u8..4).prop_map(|n| n.to_string()),
            Just("\"a\"".to_owned()),
            Just("{\"x\":1,\"y\":[2]}".to_owned()),
            Just("{\"y\":[2],\"x\":1}".to_owned())
        ];
        prop_oneof![
            Just(Value::Null),
            proptest::collection::vec(item, 0..4)
                .prop_map(|items| Value::Text(format!("[{}]", items.join(", ")).into()))
        ]
    }

    /// The forms of a set that nodes have made of it.
    fn canonical(value: &Value) -> Value {
        union(value, &Value::Text(b"[]".to_vec())).unwrap()
    }

    proptest! {
        #[test]
        fn the_order_of_values_is_total(a in value(), b in value(), c in value()) {
            prop_assert_eq!(compared(&a, &b), compared(&b, &a).reverse());
            prop_assert_eq!(compared(&a, &b) == Ordering::Equal, a == b);
            if compared(&a, &b) != Ordering::Greater && compared(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compared(&a, &c), Ordering::Greater);
            }
        }

        #[test]
        fn extremes_are_joins(a in value(), b in value(), c in value()) {
            for wanted in [Ordering::Less, Ordering::Greater] {
                let join = |a: &Value, b: &Value| extreme(a, b, wanted);
                prop_assert_eq!(join(&a, &b), join(&b, &a));
                prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
                prop_assert_eq!(join(&a, &a), a.clone());
            }
        }

        #[test]
        fn unions_are_joins(a in set(), b in set(), c in set()) {
            let join = |a: &Value, b: &Value| union(a, b).unwrap();
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(canonical(&join(&join(&a, &b), &c)), canonical(&join(&a, &join(&b, &c))));
        }
    }

    #[test]
    fn what_is_no_array_is_no_set() {
        assert!(union(&Value::Integer(1), &"[]".into()).unwrap_err().contains("no JSON array"));
        assert!(union(&"{}".into(), &"[]".into()).is_err());
        assert_eq!(union(&"[2, 1]".into(), &"[1,3]".into()).unwrap(), "[1,2,3]".into());
        assert_eq!(union(&Value::Null, &"[1]".into()).unwrap(), "[1]".into());
    }
}

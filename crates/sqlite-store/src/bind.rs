//! Values between the core and SQLite, bit for bit.

use replication::Value;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Row, Statement, ToSql};

/// Binds a core value without copying it.
pub(crate) struct Bound<'a>(pub(crate) &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Owned(SqlValue::Null),
            Value::Integer(n) => ToSqlOutput::Owned(SqlValue::Integer(*n)),
            Value::Real(r) => ToSqlOutput::Owned(SqlValue::Real(*r)),
            Value::Text(bytes) => ToSqlOutput::Borrowed(ValueRef::Text(bytes)),
            Value::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// Binds values to consecutive parameters from `first` (counted from 1).
pub(crate) fn bind_from(statement: &mut Statement<'_>, first: usize, values: &[Value]) -> rusqlite::Result<()> {
    for (offset, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(first + offset, Bound(value))?;
    }
    Ok(())
}

/// The column at `index` of a result row.
pub(crate) fn value_at(row: &Row<'_>, index: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Integer(n),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(bytes) => Value::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

/// `count` columns of a result row from `first`.
pub(crate) fn values_from(row: &Row<'_>, first: usize, count: usize) -> rusqlite::Result<Vec<Value>> {
    // Collecting results would not know how many there are.
    let mut values = Vec::with_capacity(count);
    for index in first..first + count {
        values.push(value_at(row, index)?);
    }
    Ok(values)
}

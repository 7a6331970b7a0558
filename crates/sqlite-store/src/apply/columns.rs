//! How a peer's rows fit a table here: columns go by their names.

use std::collections::HashMap;

use replication::{Counter, Entry, EntryFlags, Granularity, Origin, RowClock, RowImage, TableShape, Value};

use crate::schema::{Affinity, Column};

/// How the sender's columns map to this database's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnOrder {
    /// For each local column, the sender's index; none if the sender has no such column.
    columns: Vec<Option<usize>>,
    /// For each local key column, its place in the sender's key.
    key: Vec<usize>,
    /// Whether there is nothing to rearrange.
    same: bool,
}

/// Whether rows of one shape can be rows of a table of another.
pub(crate) enum Fit {
    /// All that is sent has its place.
    Whole(ColumnOrder),
    /// All but these of the sender's columns has.
    Partly(ColumnOrder, Vec<String>),
    /// The keys differ: no row of one is a row of the other.
    OtherKey,
}

impl Fit {
    pub(crate) fn of(remote: &TableShape, local: &TableShape) -> Self {
        if remote.columns == local.columns && remote.key == local.key {
            return Self::Whole(ColumnOrder { columns: Vec::new(), key: Vec::new(), same: true });
        }
        // SQLite does not tell the case of ASCII letters apart in names.
        let places: HashMap<String, usize> =
            remote.columns.iter().enumerate().map(|(place, name)| (name.to_ascii_lowercase(), place)).collect();
        let columns: Vec<Option<usize>> =
            local.columns.iter().map(|name| places.get(&name.to_ascii_lowercase()).copied()).collect();
        let key: Option<Vec<usize>> = local
            .key
            .iter()
            .map(|index| {
                let wanted = columns[usize::from(*index)]?;
                remote.key.iter().position(|theirs| usize::from(*theirs) == wanted)
            })
            .collect();
        let Some(key) = key.filter(|key| key.len() == remote.key.len()) else { return Self::OtherKey };
        let missing = remote.columns.iter().enumerate().filter(|(place, _)| !columns.contains(&Some(*place)));
        let missing: Vec<String> = missing.map(|(_, name)| name.clone()).collect();
        let order = ColumnOrder { columns, key, same: false };
        if missing.is_empty() { Self::Whole(order) } else { Self::Partly(order, missing) }
    }
}

impl ColumnOrder {
    /// Whether the sender has all columns that this database's table has.
    pub(crate) fn fills_all(&self) -> bool {
        self.columns.iter().all(Option::is_some)
    }

    /// The row in the order of this database's columns, without those that have no place here. Cells that the sender does not
    /// have are NULL, with entries marked as absent.
    pub(crate) fn arrange(&self, mut row: RowImage) -> RowImage {
        if self.same {
            return row;
        }
        if row.clock.is_deleted() {
            let values = self.key.iter().map(|place| row.values[*place].clone()).collect();
            row.clock.counters = self.counters(&row.clock);
            if !self.fills_all() {
                row.clock.row.flags = row.clock.row.flags.with(EntryFlags::ABSENT);
            }
            return RowImage { values, clock: row.clock };
        }
        let (values, mut clock) = (row.values, row.clock);
        let mut columns = Vec::new();
        for (local, place) in self.places() {
            let Some(place) = place else {
                columns.push((local, Entry { flags: EntryFlags::ABSENT, ..clock.row }));
                continue;
            };
            let own = clock.columns.iter().find(|(column, _)| *column == place);
            columns.extend(own.map(|(_, entry)| (local, *entry)));
        }
        (clock.columns, clock.counters) = (columns, self.counters(&clock));
        let value = |place: &Option<usize>| place.map_or(Value::Null, |place| values[place].clone());
        RowImage { values: self.columns.iter().map(value).collect(), clock }
    }

    /// For each of this database's columns, the sender's.
    fn places(&self) -> impl Iterator<Item = (u16, Option<u16>)> {
        (0..).zip(self.columns.iter().map(|place| place.and_then(|place| u16::try_from(place).ok())))
    }

    /// The counters of columns that are here, a deleted row's too: what was counted before the deletion.
    fn counters(&self, clock: &RowClock) -> Vec<(u16, Counter)> {
        let counters = self.places().filter_map(|(local, place)| Some((local, clock.counter(place?)?.clone())));
        counters.collect()
    }
}

/// Gives the cells that the sender does not have what they hold here, with the entries that they have: the row entry of a
/// sender with fewer columns speaks for those alone. In a row that is new here they hold their defaults, which nobody wrote;
/// in one that was inserted anew, those that it was inserted with. `node` is this database's origin.
pub(super) fn fill(
    remote: &mut RowImage,
    local: Option<&RowImage>,
    defaults: &[Value],
    granularity: Granularity,
    node: Origin,
) {
    if remote.clock.absent().next().is_none() {
        return;
    }
    let (absent, told): (Vec<_>, Vec<_>) =
        remote.clock.columns.drain(..).partition(|(_, entry)| entry.flags.contains(EntryFlags::ABSENT));
    remote.clock.columns = told;
    let local = local.filter(|local| !local.clock.is_deleted());
    // Where the row here came after the same deletion, or a later one, what is in it did too.
    let known = local.and_then(|local| local.clock.rest).map(|rest| rest.order());
    let anew = remote.clock.rest.filter(|rest| known.is_none_or(|known| rest.order() > known));
    let apart = if granularity == Granularity::Row { EntryFlags::APART } else { EntryFlags::empty() };
    for (column, Entry { flags: said, .. }) in absent {
        let place = usize::from(column);
        let anew = anew.filter(|_| !said.contains(EntryFlags::SILENT));
        let never = Entry { flags: said.without(EntryFlags::ABSENT), ..Entry::never(node) };
        let (value, entry) = match (local, anew) {
            (Some(local), None) => (local.values[place].clone(), *local.clock.effective(column)),
            (_, anew) => (defaults.get(place).cloned().unwrap_or(Value::Null), anew.map_or(never, Entry::filled)),
        };
        remote.values[place] = value;
        remote.clock.columns.push((column, Entry { flags: entry.flags.with(apart), ..entry }));
        if let (Some(local), None) = (local, anew) {
            let counter = local.clock.counter(column);
            remote.clock.counters.extend(counter.map(|counter| (column, counter.clone())));
        }
    }
    remote.clock.columns.sort_unstable_by_key(|(column, _)| *column);
    remote.clock.counters.sort_unstable_by_key(|(column, _)| *column);
}

/// The first of these columns that would not keep what comes for it, because its type is another one than the sender's.
pub(crate) fn converted<'a>(
    columns: &'a [Column],
    row: &RowImage,
    mut looked_at: impl Iterator<Item = usize>,
) -> Option<&'a Column> {
    if row.clock.is_deleted() {
        return None;
    }
    looked_at.find(|place| !keeps(columns[*place].affinity, &row.values[*place])).map(|place| &columns[place])
}

/// Whether a column of this affinity stores a value as it is.
fn keeps(affinity: Affinity, value: &Value) -> bool {
    match (affinity, value) {
        (Affinity::Text, Value::Integer(_) | Value::Real(_)) | (Affinity::Real, Value::Integer(_)) => false,
        (Affinity::Integer | Affinity::Numeric, Value::Real(real)) => {
            // Beyond what integers hold, SQLite leaves integral reals alone.
            const LIMIT: f64 = 9_223_372_036_854_775_807.0;
            real.fract() != 0.0 || real.abs() >= LIMIT
        }
        (Affinity::Integer | Affinity::Numeric | Affinity::Real, Value::Text(text)) => !is_numeric(text),
        _ => true,
    }
}

/// Whether SQLite takes a text for a number.
fn is_numeric(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::keeps;
    use crate::schema::Affinity::{Blob, Integer, Numeric, Real, Text};
    use replication::Value;

    #[test]
    fn columns_keep_what_sqlite_would_not_convert() {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        let values = [
            "1",
            "1.0",
            "1.5",
            "'a'",
            "'007'",
            "' 12 '",
            "'1e3'",
            "'1e'",
            "'0x10'",
            "x'31'",
            "NULL",
            "9e18",
            "'-.5'",
            "'inf'",
            "4503599627370496.0",
        ];
        let types = [(Integer, "INTEGER"), (Numeric, "NUMERIC"), (Real, "REAL"), (Text, "TEXT"), (Blob, "")];
        for (affinity, declared) in types {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (c {declared})")).unwrap();
            for value in values {
                let sent = conn.query_row(&format!("SELECT {value}"), [], |row| crate::bind::value_at(row, 0)).unwrap();
                conn.execute_batch(&format!("DELETE FROM t; INSERT INTO t VALUES ({value})")).unwrap();
                let kept = conn.query_row("SELECT c FROM t", [], |row| crate::bind::value_at(row, 0)).unwrap();
                let same = kept == sent || (affinity == Real && matches!(sent, Value::Real(_)));
                assert_eq!(keeps(affinity, &sent), same, "{declared} {value}: {kept}");
            }
        }
    }
}

//! Merging rows that waited.

use replication::{Entry, EntryFlags, Granularity, RowClock, RowImage, Value, VersionVector};
use rusqlite::{Connection, params};

use super::{
    COLUMNS, Parked, ParkedKind, ParkedNote, Waiting, has_cell, local_name, of_key, place as key_bytes, remedy, remove,
    text,
};
use crate::apply::columns::{Fit, converted};
use crate::apply::told_of;
use crate::apply::{Applied, ApplyRules, Stop, Work, unknown_entry};
use crate::attach::Misnamed;
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::{put_entry, read_image, read_row};

/// Rows looked at in one transaction.
const STEP_ROWS: usize = 1_000;

/// Where a pass over the rows that wait stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The last row that was looked at.
    after: i64,
    /// The last row of the pass: what is parked again goes to the end.
    until: Option<i64>,
    /// The tables, by their names on the wire, of which rows are looked at that no schema stands in the way of; none: all rows
    /// are.
    tables: Option<Vec<String>>,
    /// Up to this row each is merged in a transaction of its own, because one of them is refused in the end.
    single: i64,
    /// Whose new columns hold nothing but what a migration put there, for all that is known.
    unwritten: Unwritten,
    /// What peers knew by other names when they wrote what waits.
    misnamed: Misnamed,
    /// Columns that were excluded until now, by numbers of table and column: what they hold is known to nobody else.
    included: Vec<(i64, u16)>,
}

impl Progress {
    /// Whether it is a pass over all rows.
    pub(crate) fn is_over_all(&self) -> bool {
        self.tables.is_none()
    }

    /// A pass over all rows.
    pub(crate) fn over_all(unwritten: Unwritten, misnamed: Misnamed, included: Vec<(i64, u16)>) -> Self {
        Self { unwritten, misnamed, included, ..Self::default() }
    }

    /// A pass over the rows of some tables that no schema stands in the way of.
    pub(crate) fn over_undecided(tables: Vec<String>) -> Self {
        Self { tables: Some(tables), ..Self::default() }
    }

    /// How many rows the next transaction looks at.
    fn step(&self) -> usize {
        if self.after < self.single { 1 } else { STEP_ROWS }
    }
}

/// Tables in whose new columns nobody wrote.
#[derive(Debug, Clone, Default)]
pub(crate) enum Unwritten {
    /// All: what somebody wrote has become a change.
    #[default]
    All,
    /// While a migration is looked at: in tables of these numbers, because it rebuilt them; in others, the cells that hold
    /// the column's default, except in columns that bear another name now.
    Known {
        rebuilt: Vec<i64>,
        /// Numbers of table and column.
        renamed: Vec<(i64, u16)>,
    },
}

impl Unwritten {
    /// Whether nobody wrote a cell, which may hold its column's default.
    fn contains(&self, (table, column): (i64, u16), default: bool) -> bool {
        match self {
            Self::All => true,
            Self::Known { rebuilt, renamed } => {
                rebuilt.contains(&table) || (default && !renamed.contains(&(table, column)))
            }
        }
    }
}

/// What one step of a pass did.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    pub(crate) applied: Applied,
    /// Rows that wait no more, by table.
    pub(crate) rows: Vec<(String, u64)>,
    /// Where to go on; none if the pass is over.
    pub(crate) next: Option<Progress>,
}

/// Merges the next of the rows that wait and can be merged now.
pub(crate) fn merge_next(
    conn: &Connection,
    replica: &mut Replica,
    progress: &Progress,
    rules: &ApplyRules<'_>,
) -> Result<Merged, Stop> {
    let until = until(conn, progress)?;
    let page = page(conn, progress, until)?;
    let mut merged = Merged::default();
    let before = replica.have.clone();
    let mut work = Work::new(conn, replica, rules, &before, None);
    let last = page.last().map(|parked| parked.id);
    for parked in &page {
        if retry(&mut work, parked, progress)? {
            let name = local_name(work.replica, &parked.shape.name);
            match merged.rows.iter_mut().find(|(table, _)| table == name) {
                Some((_, count)) => *count += 1,
                None => merged.rows.push((name.to_owned(), 1)),
            }
        }
    }
    merged.applied = work.finish()?;
    replica.save(conn, &before)?;
    merged.next = last.filter(|_| page.len() == progress.step()).map(|after| Progress {
        after,
        until: Some(until),
        ..progress.clone()
    });
    Ok(merged)
}

/// Where to go on after a step in which a row was refused in the end, and which was rolled back: with its rows one by one, or,
/// if it had only this row, with the next. The row waits for its table to change then; the note is of a reason that was not
/// told before.
pub(crate) fn pass_over(
    conn: &Connection,
    replica: &mut Replica,
    progress: Progress,
    reason: &str,
) -> Result<(Option<Progress>, Option<ParkedNote>), StoreError> {
    let until = until(conn, &progress)?;
    let page = page(conn, &progress, until)?;
    let Some(last) = page.last() else { return Ok((None, None)) };
    if page.len() > 1 {
        return Ok((Some(Progress { single: last.id, until: Some(until), ..progress }), None));
    }
    let kind = ParkedKind::Constraint;
    let told = (last.shape.name.clone(), reason.to_owned());
    let news = !replica.waiting.told.contains(&told);
    conn.prepare_cached("UPDATE main._sync_parked SET kind = ?2, reason = ?3 WHERE id = ?1")?.execute(params![
        last.id,
        kind.as_str(),
        reason
    ])?;
    replica.waiting = Waiting::load(conn)?;
    let table = local_name(replica, &told.0).to_owned();
    let note = ParkedNote { table, kind, reason: told.1, remedy: remedy(kind) };
    Ok((Some(Progress { after: last.id, until: Some(until), ..progress }), news.then_some(note)))
}

fn until(conn: &Connection, progress: &Progress) -> Result<i64, StoreError> {
    let last = || conn.query_row("SELECT coalesce(max(id), 0) FROM main._sync_parked", [], |row| row.get(0));
    Ok(progress.until.map_or_else(last, Ok)?)
}

fn page(conn: &Connection, progress: &Progress, until: i64) -> Result<Vec<Parked>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM main._sync_parked WHERE id > ?1 AND id <= ?2 AND kind <> 'excluded' AND \
         (?3 IS NULL OR (kind <> 'schema_mismatch' AND tbl COLLATE NOCASE IN (SELECT value FROM json_each(?3)))) \
         ORDER BY id LIMIT ?4"
    );
    let tables = progress.tables.as_ref().map(text).transpose()?;
    let limit = i64::try_from(progress.step()).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params![progress.after, until, tables, limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(Parked::from_row(row)?);
    }
    Ok(page)
}

/// Merges one row that waits. True if it waits no more.
fn retry(work: &mut Work<'_>, parked: &Parked, progress: &Progress) -> Result<bool, Stop> {
    let Some(index) = work.replica.table_by_wire_name(&parked.shape.name) else { return Ok(false) };
    let whole = parked.row.clock.entries().all(|entry| work.replica.have.covers(entry.dot));
    if !whole {
        // It belongs to a catch-up that is not complete.
        return Ok(false);
    }
    let (order, missing) = match Fit::of(&parked.shape, &work.replica.tables[index].wire) {
        Fit::Whole(order) => (order, Vec::new()),
        Fit::Partly(order, missing) => (order, missing),
        Fit::OtherKey => return Ok(false),
    };
    let row = order.arrange(parked.row.clone());
    if parked.missing.is_empty() {
        remove(work.conn, work.replica, parked)?;
        let missing = told_of((&parked.shape, &[]), &parked.row, &missing);
        if !missing.is_empty() && !parked.row.clock.is_deleted() {
            let vectors = (&parked.context, &parked.own);
            work.park_columns((index, &parked.shape), &parked.row, vectors, &missing, false)?;
        }
        let waiting = work.replica.waiting.undecided;
        work.local_stands = written_since(work, index, &row, parked)?;
        let context = context_of_row(work, index, &row, parked, progress)?;
        let merged = work.row_known(index, row, (&context, &parked.own), local_state);
        work.local_stands = false;
        merged?;
        return Ok(missing.is_empty() && work.replica.waiting.undecided <= waiting);
    }
    let is_missing = |name: &String| missing.iter().any(|other| other.eq_ignore_ascii_case(name));
    let (still, found): (Vec<String>, Vec<String>) = parked.missing.iter().cloned().partition(is_missing);
    if found.is_empty() || !merge_columns(work, index, &row, parked, &found, progress)? {
        return Ok(false);
    }
    if still.is_empty() {
        remove(work.conn, work.replica, parked)?;
    } else {
        let left = |name: &String| !work.replica.wire_selection.excludes_column(&parked.shape.name, name);
        let kind = if still.iter().any(left) { parked.kind } else { ParkedKind::Excluded };
        let sql = "UPDATE main._sync_parked SET missing = ?2, kind = ?3 WHERE id = ?1";
        work.conn.prepare_cached(sql)?.execute(params![parked.id, text(&still)?, kind.as_str()])?;
        work.replica.waiting.count(parked.kind, false);
        work.replica.waiting.count(kind, true);
    }
    Ok(still.iter().all(|name| work.replica.wire_selection.excludes_column(&parked.shape.name, name)))
}

/// What a row has taken into account of the row here: nothing where that is known to its writer as another table's.
fn context_of_row(
    work: &mut Work<'_>,
    index: usize,
    row: &RowImage,
    parked: &Parked,
    progress: &Progress,
) -> Result<VersionVector, StoreError> {
    let mut context = parked.context.clone();
    let table = &work.replica.tables[index];
    if progress.misnamed.tables.contains(&table.table.number) {
        let key: Vec<_> = row.owned_key(&table.shape);
        let local = work.local(index, &key)?;
        local.iter().flat_map(|local| local.clock.entries()).for_each(|entry| without(&mut context, entry));
    }
    Ok(context)
}

/// Takes an entry out of a context, with what its origin did after it.
fn without(context: &mut VersionVector, entry: &Entry) {
    context.lower(entry.dot.origin, entry.dot.sequence.saturating_sub(1));
}

/// Whether the row here was written after the other one came to wait: who wrote it could know of that.
fn written_since(work: &mut Work<'_>, index: usize, row: &RowImage, parked: &Parked) -> Result<bool, StoreError> {
    let key: Vec<_> = row.owned_key(&work.replica.tables[index].shape);
    let (local, own) = (local_state(work, index, &key)?, work.replica.own);
    let newer = |entry: &Entry| entry.dot.origin == own && entry.dot.sequence > parked.own.get(own);
    Ok(local.is_some_and(|local| local.clock.entries().any(newer)))
}

/// This node's state of a row that waits. One without a clock is unknown to all others: it is older than everything, what this
/// node itself once said of the row too.
fn local_state(work: &mut Work<'_>, index: usize, key: &[Value]) -> Result<Option<RowImage>, StoreError> {
    let table = &work.replica.tables[index];
    if let Some(image) = read_image(work.conn, work.replica, table, key)? {
        return Ok(Some(image));
    }
    let values = read_row(work.conn, table, key)?;
    Ok(values.map(|values| RowImage { values, clock: RowClock::whole(unknown_entry(EntryFlags::INSERTED)) }))
}

/// Puts columns that have come into the row that is here without them. False if that has to wait.
fn merge_columns(
    work: &mut Work<'_>,
    index: usize,
    row: &RowImage,
    parked: &Parked,
    found: &[String],
    progress: &Progress,
) -> Result<bool, Stop> {
    let table = &work.replica.tables[index];
    let key: Vec<_> = row.owned_key(&table.shape);
    let columns: Vec<u16> = (0..)
        .zip(&table.wire.columns)
        .filter(|(_, name)| found.iter().any(|found| found.eq_ignore_ascii_case(name)))
        .map(|(column, _)| column)
        .collect();
    let mut local = match work.local(index, &key)? {
        // The rest of the row waits as well.
        None => return Ok(false),
        // The row went, and its columns with it, but for what was counted.
        Some(local) if local.clock.is_deleted() || parked.is_counted() => {
            // On top of what waits for the same column.
            for column in columns.iter().filter(|_| !local.clock.is_deleted()) {
                if has_cell(work.conn, work.replica, &work.replica.tables[index].wire, (&key, *column))? {
                    return Ok(false);
                }
            }
            let counted = row.clock.counters.iter().filter(|(column, _)| columns.contains(column));
            work.join_counted((index, &key), local, counted, &parked.context)?;
            return Ok(true);
        }
        Some(local) => local,
    };
    let places = columns.iter().map(|column| usize::from(*column));
    if converted(&work.replica.tables[index].table.columns, row, places).is_some() {
        return Ok(false);
    }
    let mut remote = local.clone();
    let mut context = parked.context.clone();
    let granularity = work.replica.tables[index].rules.granularity;
    let apart = if granularity == Granularity::Row { EntryFlags::APART } else { EntryFlags::empty() };
    for column in columns.iter().copied() {
        let place = usize::from(column);
        let table = &work.replica.tables[index].table;
        let misnamed = &progress.misnamed;
        if misnamed.tables.contains(&table.number)
            || misnamed.columns.contains(&(table.number, table.columns[place].number))
        {
            let known = local.clock.columns.iter().find(|(known, _)| *known == column);
            known.into_iter().for_each(|(_, entry)| without(&mut context, entry));
        }
        if !local.clock.columns.iter().any(|(known, entry)| *known == column && !entry.is_never()) {
            let Some(entry) = unwritten_entry(work, index, &local, (column, row), parked, progress)? else {
                // Somebody wrote the new column; that becomes a change first.
                return Ok(false);
            };
            local.clock.set_entry(column, Entry { flags: entry.flags.with(apart), ..entry });
        }
        remote.take_cell(column, row, apart);
    }
    work.merge_images(index, &key, Some(local), (remote, None), (&context, &VersionVector::new()))?;
    columns.into_iter().try_for_each(|column| own_entry(work, (index, &key), column, row))?;
    Ok(true)
}

/// The entry of a cell here for which a value waits, and of which no change is known. None if somebody wrote it, which is to
/// become a change first.
fn unwritten_entry(
    work: &Work<'_>,
    index: usize,
    local: &RowImage,
    (column, waited): (u16, &RowImage),
    parked: &Parked,
    progress: &Progress,
) -> Result<Option<Entry>, StoreError> {
    let (table, place) = (&work.replica.tables[index], usize::from(column));
    let number = (table.table.number, table.table.columns[place].number);
    let differs = local.values[place] != table.defaults[place];
    let included = progress.included.contains(&number);
    // The row here is the very one that waits, without this cell: nobody wrote that here, under any name.
    let lacks = waited.clock.row.dot == local.clock.row.dot && !differs;
    if !lacks && !progress.unwritten.contains(number, !differs) && !included {
        return Ok(None);
    }
    // Whoever wrote the row here spoke of the columns that there were: this one was never written. Or it was written while it
    // was excluded: then it is older than everything, and unknown to all others.
    Ok(Some(match speaks_for(work.conn, local, &table.wire.columns[place], parked)? {
        Some(rest) => rest.filled(),
        None if differs && included => unknown_entry(EntryFlags::empty()),
        None => Entry::never(work.replica.own),
    }))
}

/// Gives a cell that holds what waited an entry of its own, where the row entry is that of its write: of a cell without one it
/// is not known who wrote it, and more may wait.
fn own_entry(
    work: &mut Work<'_>,
    (index, key): (usize, &[Value]),
    column: u16,
    waited: &RowImage,
) -> Result<(), StoreError> {
    let (table, place) = (&work.replica.tables[index], usize::from(column));
    let entry = *waited.clock.effective(column);
    let Some(image) = read_image(work.conn, work.replica, table, key)? else { return Ok(()) };
    let stands = !image.clock.is_deleted()
        && image.clock.effective(column).dot == entry.dot
        && image.values[place] == waited.values[place];
    if !stands || image.clock.columns.iter().any(|(known, _)| *known == column) {
        return Ok(());
    }
    let number = table.table.columns[place].number;
    put_entry(work.conn, work.replica, index, key, number, &entry)
}

/// What speaks for a column that is not in the row here, where the one that waits did not know of it: the row took the place of
/// one that was deleted, and has the column's default since. Not where a value of that very row waits as well.
/// `column` is its name on the wire.
fn speaks_for(conn: &Connection, local: &RowImage, column: &str, parked: &Parked) -> Result<Option<Entry>, StoreError> {
    let Some(rest) = local.clock.rest.filter(|rest| !parked.context.covers(rest.dot)) else { return Ok(None) };
    let has_value = |other: &Parked| {
        let place = other.shape.columns.iter().position(|name| name.eq_ignore_ascii_case(column));
        let place = place.and_then(|place| u16::try_from(place).ok());
        let told = |place: &u16| other.row.clock.absent().all(|absent| absent != *place);
        let place = place.filter(told).filter(|_| !other.row.clock.is_deleted());
        place.is_some_and(|place| other.row.clock.effective(place).dot == rest.dot)
    };
    let waiting = of_key(conn, &parked.shape.name, key_bytes(&parked.shape, &parked.row)?)?;
    Ok((!waiting.iter().any(has_value)).then_some(rest))
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use replication::{Dot, Entry, EntryFlags, Origin, RowClock, RowImage, TableShape, Timestamp, Value};

    #[test]
    fn a_key_is_the_same_in_any_order_of_columns() {
        let dot = Dot { origin: Origin::from_bytes([1; 16]), sequence: 1 };
        let clock = RowClock::whole(Entry::new(Timestamp::BASELINE, dot, EntryFlags::empty()));
        let shape = |columns: [&str; 2], key: [u16; 2]| TableShape {
            name: "t".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            key: key.to_vec(),
        };
        let (one, two) = (Value::Integer(1), Value::Text(b"x".to_vec()));
        let row = |values: [&Value; 2]| RowImage { values: values.map(Clone::clone).to_vec(), clock: clock.clone() };
        assert_eq!(
            place(&shape(["a", "b"], [0, 1]), &row([&one, &two])).unwrap(),
            place(&shape(["B", "a"], [1, 0]), &row([&two, &one])).unwrap()
        );
    }
}

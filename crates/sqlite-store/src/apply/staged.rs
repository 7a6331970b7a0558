//! Catch-ups that take several batches: their rows are staged, and merged when all of them are here.

use std::sync::Arc;

use replication::{Batch, Origin, RowImage, TableRows, VersionVector};
use rusqlite::Connection;

use super::{Applied, ApplyOutcome, ApplyRules, Stop, Work, inherit, outcome, turn};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::Replica;
use crate::staging::exchanges::{self, Exchanged};
use crate::staging::{self, Paging, Stage, Staged, Turn};
use crate::table_sql::AT_ONCE;

/// Rows merged in one transaction where there are more than fit one.
const STEP_ROWS: usize = 10_000;

/// Stages a batch of a catch-up that takes several.
pub(super) fn stage(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    let own = replica.have.clone();
    let complete = batch.is_complete();
    let Batch { source, from, to, context, dropped, tables, .. } = batch;
    staging::make_room(conn, replica, source)?;
    let mut stage = Stage::open(conn, source)?;
    staging::note_began(conn, replica, source, || (context.clone(), dropped.clone()))?;
    staging::note_dropped(conn, replica, source, dropped)?;
    if !context.covers_all(&stage.context()) {
        // An old message: the catch-up went on since, and its rows are in a newer state.
        return Err(Stop::Outcome(Box::new(ApplyOutcome::Gap)));
    }
    // What begins before the place where the last batch ended brings rows again that are staged.
    let received = replica.received.get(&source).filter(|received| from.covers_all(&received.position));
    let began = received.and_then(|received| received.began.as_ref()).map(|(context, _)| context.clone());
    let (with_own_context, rest): (Vec<TableRows>, Vec<TableRows>) =
        tables.into_iter().partition(|table| table.context.is_some());
    let mut work = Work::new(conn, replica, rules, &own, None);
    let mut staged = 0;
    for table in with_own_context {
        let number = stage.begin(conn, table.context.as_ref().unwrap_or(&context))?;
        staged += put_rows(&stage, &mut work, number, table, (&context, began.as_ref()))?;
    }
    // The batch that begins last tells what is known in the end.
    let number = stage.begin(conn, &context)?;
    for table in rest {
        staged += put_rows(&stage, &mut work, number, table, (&context, began.as_ref()))?;
    }
    let applied = Applied { staged, ..work.finish()? };
    stage.advance(conn, replica, &to, complete)?;
    replica.save(conn, &own)?;
    fail_point("stage-before-commit");
    Ok(applied)
}

/// Stages the rows of a table that have a place here; tells how many. `began` is what the source knew when the catch-up began, none
/// where they may be staged already.
fn put_rows(
    stage: &Stage,
    work: &mut Work<'_>,
    batch: i64,
    table: TableRows,
    (context, began): (&VersionVector, Option<&VersionVector>),
) -> Result<usize, Stop> {
    let turn = turn(&table);
    let TableRows { shape, rows, context: passed_on, limited, parts } = table;
    let context = passed_on.as_ref().unwrap_or(context);
    let place = work.place(&shape);
    let mut staged = 0;
    let mut paging = Paging::new(stage, (batch, turn), began, work.rules.max_rows);
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let mut fitting = Vec::new();
        for row in rows.by_ref().take(AT_ONCE) {
            fitting.extend(work.fitting(&place, (&shape, &parts), row, context, limited)?);
        }
        let Some((index, _)) = fitting.first() else { continue };
        fail_point("stage-between-rows");
        staged += fitting.len();
        let table = &work.replica.tables[*index];
        let rows = fitting.into_iter().map(|(_, row)| row);
        let (paged, keyed): (Vec<RowImage>, Vec<RowImage>) = rows.partition(|row| paging.takes(table, row));
        stage.put(work.conn, (batch, turn), table, keyed.iter())?;
        paging.put(work.conn, table, paged.into_iter())?;
    }
    paging.finish(work.conn)?;
    Ok(staged)
}

/// Merges the next of the rows that are staged of a catch-up which is complete, and with the last of them raises the
/// vector. Inside the caller's write transaction, like [`apply`].
pub(crate) fn merge_staged(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    rules: &ApplyRules<'_>,
) -> Result<ApplyOutcome, StoreError> {
    outcome(merge_next(conn, replica, source, rules))
}

fn merge_next(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    let stage = Stage::open(conn, source)?;
    // They are looked for by their keys from here on.
    if stage.spread(conn, replica, rules.max_rows.min(STEP_ROWS))? > 0 {
        return Ok(Applied::default());
    }
    let own = replica.have.clone();
    // What fits one transaction is seen as one by readers; more would keep applications waiting for too long.
    let held = exchanges::count(conn, source)?;
    let begun = replica.received.get(&source).is_some_and(|received| received.merged);
    let whole = !begun && held < rules.max_rows && stage.holds_at_most(conn, rules.max_rows - held)?;
    let mut left = if whole { rules.max_rows } else { rules.max_rows.min(STEP_ROWS) };
    // What comes knows the rows by the dots that they are going to have, and may be in their ranges: all of these go first.
    match exchanges::step(conn, replica, source, left)? {
        Exchanged::Rows(rows) => left -= rows.min(left),
        Exchanged::Gone => {
            staging::start_over(conn, replica, source)?;
            replica.save(conn, &own)?;
            return Ok(Applied { started_over: true, ..Applied::default() });
        }
    }
    if !exchanges::is_empty(conn, source)? {
        left = 0;
    }
    let mut work = Work::new(conn, replica, rules, &own, Some(&stage));
    while left > 0 {
        let (taken, rows) = stage.take_next(conn, work.replica, left)?;
        if taken == 0 {
            break;
        }
        left -= taken.min(left);
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            fail_point("merge-between-rows");
            merge_rows(&mut work, &stage, rows.by_ref().take(AT_ONCE).collect())?;
        }
    }
    let applied = work.finish()?;
    if exchanges::is_empty(conn, source)? && stage.is_empty(conn)? {
        replica.have.join(&stage.context());
        let received = replica.received.remove(&source).unwrap_or_default();
        inherit(conn, replica, &received.dropped, rules)?;
        staging::clear(conn, &source)?;
        staging::clear_known(conn, replica)?;
        fail_point("merge-last-before-commit");
    } else {
        stage.note_merged(conn, replica)?;
        fail_point("merge-before-commit");
    }
    replica.save(conn, &own)?;
    Ok(applied)
}

/// Merges staged rows of one table.
fn merge_rows(work: &mut Work<'_>, stage: &Stage, rows: Vec<Staged>) -> Result<(), Stop> {
    let mut rows = rows;
    if let Some(Staged { table, context, turn: turn @ Turn::Own, .. }) = rows.first()
        && rows.iter().all(|other| Arc::ptr_eq(&other.context, context))
    {
        let (table, context, turn) = (*table, Arc::clone(context), *turn);
        let images: Vec<&RowImage> = rows.iter().map(|staged| &staged.row).collect();
        if work.insert_together(table, &images, &context)? {
            return Ok(());
        }
        let images = rows.into_iter().map(|staged| (table, staged.row)).collect();
        let singly = work.merge_together(table, images, &context)?.into_iter();
        rows = singly.map(|(table, row)| Staged { table, row, context: Arc::clone(&context), turn }).collect();
    }
    for Staged { table, row, context, turn } in rows {
        match turn {
            Turn::PassedOn | Turn::Own => {
                work.row(table, row, &context)?;
                // A row that came back without some cells gets them before anybody is told of it.
                for (table, key) in std::mem::take(&mut work.came_back) {
                    for part in stage.take_parts(work.conn, work.replica, table, &key)? {
                        work.part(table, part.row, &part.context)?;
                    }
                }
            }
            Turn::Parts => work.part(table, row, &context)?,
        }
    }
    Ok(())
}

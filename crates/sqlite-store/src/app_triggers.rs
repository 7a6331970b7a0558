//! The application's own triggers: which of them must run when changes are applied, and TEMP copies of those.
//!
//! The applying connection has triggers disabled, because what they do to synced tables arrives as changes of its own.
//! What they do to anything else (a full-text index, a cache) does not arrive, so those are copied as TEMP triggers,
//! which SQLite runs all the same. Nothing here changes the database file.

mod rule;
mod trigger_text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::attach::statement_check::{refusal_message, writes};
use crate::connection::with_setting;
use crate::error::StoreError;
use crate::identifier::{is_ours, quote};
use crate::schema::{Schema, Table};
use crate::warning::Warning;
use rule::TriggerEffects;
pub use rule::{TriggerRule, TriggerRules};
use trigger_text::{FiresAt, TriggerText};

/// What becomes of a trigger when changes are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TriggerClass {
    /// It does not run: it writes synced tables or nothing, or it may RAISE and so reject what peers have accepted.
    Silent,
    /// A TEMP copy of it runs: it writes something, and nothing that is synced.
    Copied,
    /// It does not run, although something that is not synced then stays behind: it writes both. Split in two triggers,
    /// one for each, it would be right.
    Mixed,
    /// It does not run, because it cannot be compiled here; it may use functions that only the application defines.
    Unusable {
        /// SQLite's message.
        reason: String,
    },
}

/// One trigger of the application that a change of a synced table sets off, directly or through other triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppTrigger {
    /// Its name.
    pub name: String,
    /// The table or view that it is on.
    pub table: String,
    /// What becomes of it, unless somebody has decided otherwise.
    pub class: TriggerClass,
    /// What it does that speaks for its class.
    effects: TriggerEffects,
    /// What somebody has decided.
    rule: Option<TriggerRule>,
}

/// Tells for each trigger what becomes of it, by compiling writes of all synced tables with triggers enabled.
///
/// # Errors
/// SQLite's own. The connection is as it was.
pub fn classify(conn: &Connection, schema: &Schema, rules: &TriggerRules) -> Result<Classified, StoreError> {
    let survey = Survey::of(conn, schema)?;
    let triggers = survey.triggers(rules);
    let mut problems: Vec<Warning> = triggers.iter().filter_map(AppTrigger::problem).collect();
    let names: Vec<&str> = survey.found.values().map(|found| found.name.as_str()).collect();
    problems.extend(rules.without_effect(&triggers, &names));
    Ok(Classified { triggers, problems })
}

/// The application's triggers, and what is wrong with the rules for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Classified {
    /// What becomes of each.
    pub triggers: Vec<AppTrigger>,
    /// Rules that cannot be followed, or that no trigger is meant by.
    pub problems: Vec<Warning>,
}

/// Makes TEMP copies, on this connection, of the triggers that must run when changes are applied, in place of those
/// that were made before. Returns what became of all triggers.
///
/// # Errors
/// SQLite's own. Copies made so far stay; a retry makes all anew.
pub fn install_temp_copies(
    conn: &Connection,
    schema: &Schema,
    rules: &TriggerRules,
) -> Result<Vec<AppTrigger>, StoreError> {
    let survey = Survey::of(conn, schema)?;
    let mut triggers = survey.triggers(rules);
    drop_copies(conn, |_| true)?;
    for (place, trigger) in triggers.iter_mut().enumerate().filter(|(_, trigger)| trigger.runs()) {
        let Some(found) = survey.found.get(&fold(&trigger.name)) else { continue };
        let sql = found.text.as_temp(&copy_name(place), &trigger.table);
        if let Err(error) = conn.execute_batch(&sql) {
            trigger.class = TriggerClass::Unusable { reason: refusal_message(error)? };
        }
    }
    for table in &schema.tables {
        // A copy that does not compile would make every apply to the table fail.
        if let Some(reason) = first_refused(conn, table)? {
            let on_table = |name: &str| name.eq_ignore_ascii_case(&table.name);
            drop_copies(conn, on_table)?;
            let copied = triggers.iter_mut().filter(|t| on_table(&t.table) && t.runs());
            copied.for_each(|trigger| trigger.class = TriggerClass::Unusable { reason: reason.clone() });
        }
    }
    Ok(triggers)
}

/// A trigger of the file as a TEMP one of another name; none where its text cannot be read.
pub(crate) fn temp_copy(sql: &str, name: &str, table: &str) -> Option<String> {
    TriggerText::parse(sql).map(|text| text.as_temp(name, table))
}

fn copy_name(place: usize) -> String {
    format!("_sync_copy_{}", place + 1)
}

/// Drops the copies on tables of which `of_table` says so.
fn drop_copies(conn: &Connection, of_table: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let sql = "SELECT name, tbl_name FROM temp.sqlite_schema WHERE type = 'trigger' AND name GLOB '_sync_copy_*'";
    let copies = conn
        .prepare(sql)?
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    for (name, _) in copies.iter().filter(|(_, table)| of_table(table)) {
        // A copy whose table is gone is listed, and yet unknown.
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.{}", quote(name)))?;
    }
    Ok(())
}

fn first_refused(conn: &Connection, table: &Table) -> Result<Option<String>, StoreError> {
    let refused = writes(table).iter().find_map(|sql| conn.prepare(sql).err());
    refused.map(refusal_message).transpose()
}

/// Names compare without ASCII case.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// One thing that a trigger does to a table or view; names are folded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Insert(String),
    Delete(String),
    Update(String, String),
}

impl Effect {
    fn table(&self) -> &str {
        match self {
            Self::Insert(table) | Self::Delete(table) | Self::Update(table, _) => table,
        }
    }

    fn sets_off(&self, fires_at: &FiresAt) -> bool {
        match (self, fires_at) {
            (Self::Insert(_), FiresAt::Insert) | (Self::Delete(_), FiresAt::Delete) => true,
            (Self::Update(_, column), FiresAt::Update(columns)) => {
                columns.is_empty() || columns.iter().any(|named| named.eq_ignore_ascii_case(column))
            }
            _ => false,
        }
    }
}

/// A trigger of the application as the file holds it.
#[derive(Debug)]
struct FoundTrigger {
    name: String,
    table: String,
    text: TriggerText,
    refused: Option<String>,
}

/// The effects of triggers by their folded names.
type Effects = BTreeMap<String, BTreeSet<Effect>>;

/// All triggers of the application and what they do.
struct Survey {
    found: BTreeMap<String, FoundTrigger>,
    effects: Effects,
    synced: BTreeSet<String>,
    views: BTreeSet<String>,
}

impl Survey {
    fn of(conn: &Connection, schema: &Schema) -> Result<Self, StoreError> {
        let mut survey = Self {
            found: read_triggers(conn)?,
            effects: Effects::new(),
            synced: schema.tables.iter().map(|table| fold(&table.name)).collect(),
            views: BTreeSet::new(),
        };
        if survey.found.is_empty() {
            return Ok(survey);
        }
        let mut views = conn.prepare("SELECT name FROM main.sqlite_schema WHERE type = 'view'")?;
        for name in views.query_map([], |row| row.get::<_, String>(0))? {
            survey.views.insert(fold(&name?));
        }
        let shared: Arc<Mutex<Effects>> = Arc::default();
        let seen = Arc::clone(&shared);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner), &context);
            Authorization::Allow
        }))?;
        let compiled = with_setting(conn, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true, || {
            schema.tables.iter().try_for_each(|table| survey.compile(conn, table))
        });
        conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        compiled?;
        survey.effects = std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(survey)
    }

    /// Compiles the three kinds of writes of a table, and notes which triggers do not let them.
    fn compile(&mut self, conn: &Connection, table: &Table) -> Result<(), StoreError> {
        if !self.found.values().any(|trigger| trigger.table.eq_ignore_ascii_case(&table.name)) {
            return Ok(());
        }
        let kinds = [FiresAt::Insert, FiresAt::Delete, FiresAt::Update(Vec::new())];
        for (sql, kind) in writes(table).iter().zip(kinds) {
            let Err(error) = conn.prepare(sql) else { continue };
            let reason = refusal_message(error)?;
            for trigger in self.found.values_mut() {
                let same = std::mem::discriminant(&trigger.text.fires_at) == std::mem::discriminant(&kind);
                if same && trigger.table.eq_ignore_ascii_case(&table.name) {
                    trigger.refused = Some(reason.clone());
                }
            }
        }
        Ok(())
    }

    fn triggers(&self, rules: &TriggerRules) -> Vec<AppTrigger> {
        let on_synced = self.found.iter().filter(|(_, found)| self.synced.contains(&fold(&found.table)));
        let mut reached: BTreeSet<&String> = on_synced.map(|(key, _)| key).collect();
        for key in reached.clone() {
            self.reach(key, &mut reached);
        }
        let found = reached.into_iter().filter_map(|key| self.found.get(key));
        found.map(|found| self.trigger(found, rules)).collect()
    }

    fn trigger(&self, found: &FoundTrigger, rules: &TriggerRules) -> AppTrigger {
        let effects = self.effects(found);
        let class = match &found.refused {
            Some(reason) => TriggerClass::Unusable { reason: reason.clone() },
            None => effects.class(),
        };
        let rule = rules.of(&found.name);
        AppTrigger { name: found.name.clone(), table: found.table.clone(), class, effects, rule }
    }

    /// What a trigger does, with those that it sets off.
    fn effects(&self, found: &FoundTrigger) -> TriggerEffects {
        let key = fold(&found.name);
        let mut reached = BTreeSet::new();
        self.reach(&key, &mut reached);
        reached.insert(&key);
        let effects = reached.iter().filter_map(|key| self.effects.get(*key)).flatten();
        // A write to a view is what its INSTEAD OF triggers do.
        let tables: BTreeSet<&str> = effects.map(Effect::table).filter(|table| !self.views.contains(*table)).collect();
        let (synced, others): (Vec<&str>, Vec<&str>) =
            tables.into_iter().partition(|table| self.synced.contains(*table));
        TriggerEffects {
            synced: synced.into_iter().map(str::to_owned).collect(),
            others: !others.is_empty(),
            raises: found.text.raises,
            ignores: found.text.ignores,
        }
    }

    /// Adds the triggers that this one sets off, and those that they set off. Not through synced tables: what is
    /// written to them arrives as a change, and sets off their triggers then.
    fn reach<'a>(&'a self, key: &str, reached: &mut BTreeSet<&'a String>) {
        for effect in self.effects.get(key).into_iter().flatten().filter(|e| !self.synced.contains(e.table())) {
            let next = self.found.iter().filter(|(_, next)| {
                next.table.eq_ignore_ascii_case(effect.table()) && effect.sets_off(&next.text.fires_at)
            });
            for (next, _) in next {
                if reached.insert(next) {
                    self.reach(next, reached);
                }
            }
        }
    }
}

fn note(effects: &mut Effects, context: &AuthContext<'_>) {
    let Some(trigger) = context.accessor else { return };
    let effect = match context.action {
        AuthAction::Insert { table_name } => Effect::Insert(fold(table_name)),
        AuthAction::Delete { table_name } => Effect::Delete(fold(table_name)),
        AuthAction::Update { table_name, column_name } => Effect::Update(fold(table_name), fold(column_name)),
        _ => return,
    };
    effects.entry(fold(trigger)).or_default().insert(effect);
}

fn read_triggers(conn: &Connection) -> Result<BTreeMap<String, FoundTrigger>, StoreError> {
    let mut statement = conn.prepare("SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger'")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (name, table, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if is_ours(&name) {
            continue;
        }
        let Some(text) = TriggerText::parse(&sql) else { continue };
        found.insert(fold(&name), FoundTrigger { name, table, text, refused: None });
    }
    Ok(found)
}

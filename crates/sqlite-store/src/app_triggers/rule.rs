//! What is decided about a trigger: by what it does, or by a person.

use std::collections::BTreeMap;

use super::{AppTrigger, TriggerClass};
use crate::nearest::nearest;
use crate::warning::{Warning, WarningKind};

/// What a person has decided about a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerRule {
    /// It runs when changes are applied too. Not possible for one that writes synced tables: what it wrote there at the
    /// origin arrives as changes of its own, so it would be done twice, and on each node differently. Nor for one that
    /// leaves out rows by `RAISE(IGNORE)`: they would be missing here and nobody would know. One that raises an error can
    /// run; a row that it refuses then cannot be applied.
    Run,
    /// It does not run when changes are applied.
    Skip,
}

/// Decisions about triggers, by their names, in which ASCII case does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TriggerRules(BTreeMap<String, (String, TriggerRule)>);

impl TriggerRules {
    /// Decides about one trigger; a decision before is replaced.
    pub fn insert(&mut self, trigger: &str, rule: TriggerRule) {
        self.0.insert(trigger.to_ascii_lowercase(), (trigger.to_owned(), rule));
    }

    /// The decisions, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, TriggerRule)> {
        self.0.values().map(|(name, rule)| (name.as_str(), *rule))
    }

    pub(super) fn of(&self, trigger: &str) -> Option<TriggerRule> {
        self.0.get(&trigger.to_ascii_lowercase()).map(|(_, rule)| *rule)
    }

    /// The rules that none of these triggers is meant by; `names` are those of all triggers in the file.
    pub(super) fn without_effect<'a>(
        &'a self,
        triggers: &'a [AppTrigger],
        names: &'a [&'a str],
    ) -> impl Iterator<Item = Warning> + 'a {
        let unmet = self.iter().filter(|(name, _)| !triggers.iter().any(|t| t.name.eq_ignore_ascii_case(name)));
        unmet.map(|(name, _)| {
            let (reason, remedy) = if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                let reason = format!("a rule is for trigger {name:?}, which changes of synced tables do not set off");
                (reason, "remove the rule".to_owned())
            } else {
                let near = nearest(names.iter().copied(), name);
                let remedy =
                    near.map_or("correct or remove the rule".to_owned(), |near| format!("did you mean {near:?}?"));
                (format!("a rule is for trigger {name:?}, and there is no such trigger"), remedy)
            };
            Warning { kind: WarningKind::UnknownTrigger, table: None, reason, remedy }
        })
    }
}

/// What a trigger does, with those that it sets off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TriggerEffects {
    /// The synced tables that it writes.
    pub(super) synced: Vec<String>,
    /// Whether it writes anything else.
    pub(super) others: bool,
    pub(super) raises: bool,
    pub(super) ignores: bool,
}

impl TriggerEffects {
    pub(super) fn class(&self) -> TriggerClass {
        match (self.others && !self.raises, self.synced.is_empty()) {
            (false, _) => TriggerClass::Silent,
            (true, true) => TriggerClass::Copied,
            (true, false) => TriggerClass::Mixed,
        }
    }
}

impl AppTrigger {
    /// Whether it runs when changes are applied.
    pub fn runs(&self) -> bool {
        match (&self.class, self.rule) {
            (TriggerClass::Unusable { .. }, _) | (_, Some(TriggerRule::Skip)) => false,
            (_, Some(TriggerRule::Run)) if self.refusal().is_none() => true,
            (class, _) => *class == TriggerClass::Copied,
        }
    }

    /// Why it runs, or why it does not.
    pub fn why(&self) -> String {
        let told = self.rule.map(|rule| if rule == TriggerRule::Run { "run" } else { "skip" });
        match (&self.class, told, self.refusal()) {
            (TriggerClass::Unusable { reason }, ..) => format!("it cannot be compiled here: {reason}"),
            (_, Some("run"), Some(refusal)) => format!("it is told to run, but {refusal}"),
            (_, Some(told), _) => format!("it is told to {told}"),
            (TriggerClass::Copied, ..) => "it writes only what is not synced".to_owned(),
            (TriggerClass::Mixed, ..) => {
                "it also writes what is not synced, which lags behind here: split it in two".to_owned()
            }
            (TriggerClass::Silent, ..) if self.effects.raises => {
                "it can raise an error, and would refuse what other nodes have accepted".to_owned()
            }
            (TriggerClass::Silent, ..) if self.effects.synced.is_empty() => "it writes nothing".to_owned(),
            (TriggerClass::Silent, ..) => "its effects arrive as changes".to_owned(),
        }
    }

    /// Why it cannot be told to run.
    fn refusal(&self) -> Option<String> {
        let TriggerEffects { synced, ignores, .. } = &self.effects;
        if !synced.is_empty() {
            let tables = synced.join(", ");
            return Some(format!("it writes the synced {tables}, and what it writes there arrives as changes already"));
        }
        ignores
            .then(|| "it leaves out rows by RAISE(IGNORE), and nobody would know that they are missing here".to_owned())
    }

    /// What is wrong with the rule for it.
    pub(super) fn problem(&self) -> Option<Warning> {
        let reason = match (&self.class, self.rule?) {
            (_, TriggerRule::Skip) => return None,
            (TriggerClass::Unusable { reason }, _) => format!("it cannot be compiled here: {reason}"),
            _ => self.refusal()?,
        };
        Some(Warning {
            kind: WarningKind::TriggerRule,
            table: Some(self.table.clone()),
            reason: format!("trigger {:?} is told to run on applied changes, and cannot: {reason}", self.name),
            remedy:
                "remove the rule; or split the trigger in two, and let the one run that writes only what is not synced"
                    .to_owned(),
        })
    }
}

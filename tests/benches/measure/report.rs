//! Figures, and the table that shows them.

use std::fmt;

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// It is told, and nothing is asked of it.
    None,
}

/// One measured value.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    goal: Goal,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, goal: Goal) -> Self {
        Self { name: name.into(), unit, value, goal }
    }

    /// A value without a goal.
    pub(crate) fn told(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self::new(name, value, unit, Goal::None)
    }
}

/// The figures of all runs.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(Figure, Vec<f64>)>,
}

impl Table {
    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        for figure in figures {
            match self.rows.iter_mut().find(|(known, _)| known.name == figure.name) {
                Some((_, values)) => values.push(figure.value),
                None => {
                    let values = vec![figure.value];
                    self.rows.push((figure, values));
                }
            }
        }
    }

    /// The middle of a figure's values.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|(figure, _)| figure.name == name).map(|(_, values)| median(values))
    }

    /// All values, for programs.
    pub(crate) fn json(&self) -> String {
        let figure = |(figure, values): &(Figure, Vec<f64>)| serde_json::json!({ "name": figure.name, "unit": figure.unit, "median": median(values), "values": values });
        serde_json::Value::Array(self.rows.iter().map(figure).collect()).to_string()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| measured | median | spread | goal | |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | --- |")?;
        for (figure, values) in &self.rows {
            let middle = median(values);
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let (goal, met) = match figure.goal {
                Goal::AtMost(limit) => (format!("≤ {}", number(limit)), if middle <= limit { "yes" } else { "no" }),
                Goal::AtLeast(limit) => (format!("≥ {}", number(limit)), if middle >= limit { "yes" } else { "no" }),
                Goal::None => (String::new(), ""),
            };
            let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
            let spread = if values.len() > 1 { format!("{} – {}", number(low), number(high)) } else { String::new() };
            writeln!(f, "| {} | {}{unit} | {spread} | {goal} | {met} |", figure.name, number(middle))?;
        }
        Ok(())
    }
}

/// The middle of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    at(values, 50)
}

/// The value below which so many in a hundred are.
pub(crate) fn at(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Three digits that count, thousands with commas.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return text;
    }
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else if value.abs() >= 1.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// What it runs on.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| cpu.lines().find_map(|line| line.strip_prefix(name)?.split_once(": ").map(|(_, v)| v));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{} × {}, Linux {}, SQLite {}",
        cores,
        field("model name").unwrap_or("unknown processor"),
        read("/proc/sys/kernel/osrelease").trim(),
        rusqlite::version()
    )
}

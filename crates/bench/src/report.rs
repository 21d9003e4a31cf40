//! Collects the rounds of every figure and writes them as a table, as JSON and as a plot.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Doing, Result};
use crate::plot;
use crate::stats::median;
use crate::systems::Kind;

/// Which way a figure improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What the project wants of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// Springhead is at least so many times as good as PostgreSQL.
    Ratio(f64),
    /// Springhead's own value.
    AtMost(f64),
    AtLeast(f64),
}

/// Names a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub measurement: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub better: Better,
    pub aim: Option<Aim>,
}

impl Point {
    #[must_use]
    pub fn new(
        measurement: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        better: Better,
    ) -> Self {
        Self {
            measurement,
            what: what.into(),
            unit,
            better,
            aim: None,
        }
    }

    #[must_use]
    pub fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }
}

/// One system's rounds of a figure.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// How it was done there, e.g. `LISTEN/NOTIFY`.
    pub how: String,
    pub rounds: Vec<f64>,
}

impl Side {
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        (!self.rounds.is_empty()).then(|| median(&self.rounds))
    }
}

/// A figure with the rounds of both systems.
#[derive(Debug, Clone)]
pub struct Figure {
    pub point: Point,
    pub springhead: Side,
    pub postgres: Side,
}

impl Figure {
    /// How many times as good as PostgreSQL Springhead is: above 1 it is the better one.
    #[must_use]
    pub fn advantage(&self) -> Option<f64> {
        let (ours, theirs) = (self.springhead.median()?, self.postgres.median()?);
        let ratio = match self.point.better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        };
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    /// Whether the aim is met; nothing without an aim, or without the figures it needs.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        match self.point.aim? {
            Aim::Ratio(least) => self.advantage().map(|ratio| ratio >= least),
            Aim::AtMost(most) => self.springhead.median().map(|value| value <= most),
            Aim::AtLeast(least) => self.springhead.median().map(|value| value >= least),
        }
    }

    fn aim_text(&self) -> String {
        let wanted = match self.point.aim {
            None => return String::new(),
            Some(Aim::Ratio(least)) => format!("≥ {least}×"),
            Some(Aim::AtMost(most)) => format!("≤ {}", number(most)),
            Some(Aim::AtLeast(least)) => format!("≥ {}", number(least)),
        };
        match self.met() {
            Some(true) => format!("{wanted}: met"),
            Some(false) => format!("{wanted}: missed"),
            None => wanted,
        }
    }
}

/// All that a run found out.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they were first recorded.
    pub figures: Vec<Figure>,
    /// How it was measured; what a reader must know to judge the figures.
    notes: Vec<String>,
    facts: Vec<(String, String)>,
}

impl Report {
    /// Adds one round's value of `point` for `kind`.
    pub fn record(&mut self, point: Point, kind: Kind, how: &str, value: f64) {
        eprintln!(
            "  {} · {} · {kind}{}: {} {}",
            point.measurement,
            point.what,
            if how.is_empty() {
                String::new()
            } else {
                format!(" ({how})")
            },
            number(value),
            point.unit
        );
        let index = self
            .figures
            .iter()
            .position(|figure| {
                figure.point.measurement == point.measurement && figure.point.what == point.what
            })
            .unwrap_or_else(|| {
                self.figures.push(Figure {
                    point,
                    springhead: Side::default(),
                    postgres: Side::default(),
                });
                self.figures.len() - 1
            });
        let figure = &mut self.figures[index];
        let side = match kind {
            Kind::Springhead => &mut figure.springhead,
            Kind::Postgres => &mut figure.postgres,
        };
        how.clone_into(&mut side.how);
        side.rounds.push(value);
    }

    /// A line about how something was measured; each once.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }

    /// The table, in Markdown that also reads well in a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![
            [
                "measurement",
                "figure",
                "unit",
                "Springhead",
                "PostgreSQL",
                "ratio",
                "aim",
            ]
            .map(str::to_owned),
        ];
        for figure in &self.figures {
            rows.push([
                figure.point.measurement.to_owned(),
                figure.point.what.clone(),
                figure.point.unit.to_owned(),
                side_text(&figure.springhead),
                side_text(&figure.postgres),
                figure
                    .advantage()
                    .map_or_else(String::new, |ratio| format!("{ratio:.2}×")),
                figure.aim_text(),
            ]);
        }
        let widths: Vec<usize> = (0..7)
            .map(|column| {
                rows.iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for (index, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                let _ = writeln!(out, "| {} |", rules.join(" | "));
            }
        }
        out
    }

    /// The whole report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        let _ = writeln!(
            out,
            "\nA ratio above 1 means that Springhead is that many times as good. Values are medians over the rounds.\n\n{}",
            self.table()
        );
        for note in &self.notes {
            let _ = writeln!(out, "- {note}");
        }
        out
    }

    /// Writes bench.json, bench.md and bench.svg into `directory`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).doing(format!("making {}", directory.display()))?;
        let json = serde_json::to_string_pretty(&self.json())
            .map_err(std::io::Error::from)
            .doing("writing JSON")?;
        for (name, text) in [
            ("bench.json", json),
            ("bench.md", self.markdown()),
            ("bench.svg", plot::ratios(&self.figures)),
        ] {
            std::fs::write(directory.join(name), text).doing(format!("writing {name}"))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let side = |side: &Side| match side.median() {
            Some(median) => json!({"how": side.how, "median": median, "rounds": side.rounds}),
            None => Value::Null,
        };
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "measurement": figure.point.measurement,
                    "figure": figure.point.what,
                    "unit": figure.point.unit,
                    "better": if figure.point.better == Better::Higher { "higher" } else { "lower" },
                    "springhead": side(&figure.springhead),
                    "postgres": side(&figure.postgres),
                    "ratio": figure.advantage(),
                    "aim": figure.point.aim.map(|_| figure.aim_text()),
                    "aim_met": figure.met(),
                })
            })
            .collect();
        let facts: serde_json::Map<String, Value> = self
            .facts
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({"facts": facts, "figures": figures, "notes": self.notes})
    }
}

fn side_text(side: &Side) -> String {
    match (side.median(), side.how.as_str()) {
        (None, _) => "–".to_owned(),
        (Some(value), "") => number(value),
        (Some(value), how) => format!("{} ({how})", number(value)),
    }
}

/// A value with three or four digits that matter.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => thousands(&format!("{value:.0}")),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits), |rest| ("-", rest));
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, ours: &[f64], theirs: &[f64], aim: Option<Aim>) -> Figure {
        let mut point = Point::new("m", "w", "u", better);
        point.aim = aim;
        let side = |rounds: &[f64]| Side {
            how: String::new(),
            rounds: rounds.to_vec(),
        };
        Figure {
            point,
            springhead: side(ours),
            postgres: side(theirs),
        }
    }

    #[test]
    fn a_ratio_above_one_always_means_better() {
        assert_eq!(
            figure(Better::Higher, &[30.0, 20.0, 10.0], &[10.0], None).advantage(),
            Some(2.0)
        );
        assert_eq!(
            figure(Better::Lower, &[20.0], &[10.0], None).advantage(),
            Some(0.5)
        );
        assert_eq!(figure(Better::Lower, &[20.0], &[], None).advantage(), None);
    }

    #[test]
    fn aims_are_judged_by_what_was_measured() {
        let met = |aim| figure(Better::Higher, &[20.0], &[10.0], Some(aim)).met();
        assert_eq!(met(Aim::Ratio(2.0)), Some(true));
        assert_eq!(met(Aim::Ratio(2.1)), Some(false));
        assert_eq!(met(Aim::AtMost(19.0)), Some(false));
        assert_eq!(met(Aim::AtLeast(20.0)), Some(true));
        assert_eq!(
            figure(Better::Higher, &[20.0], &[], Some(Aim::Ratio(1.0))).met(),
            None
        );
    }

    #[test]
    fn the_table_has_a_row_per_figure_with_the_medians() {
        let mut report = Report::default();
        for value in [1000.0, 3000.0, 2000.0] {
            report.record(
                Point::new("commits", "8 clients", "commits/s", Better::Higher)
                    .aim(Aim::Ratio(2.0)),
                Kind::Springhead,
                "",
                value,
            );
        }
        report.record(
            Point::new("commits", "8 clients", "commits/s", Better::Higher),
            Kind::Postgres,
            "WAL",
            500.0,
        );
        let table = report.table();
        assert_eq!(table.lines().count(), 3);
        let row: Vec<&str> = table
            .lines()
            .last()
            .unwrap()
            .split('|')
            .map(str::trim)
            .collect();
        assert_eq!(
            row,
            [
                "",
                "commits",
                "8 clients",
                "commits/s",
                "2,000",
                "500 (WAL)",
                "4.00×",
                "≥ 2×: met",
                ""
            ]
        );
    }
}

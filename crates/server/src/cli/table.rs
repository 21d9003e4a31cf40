//! Results for people: aligned columns, numbers to the right. Widths are those of the first rows,
//! so that a result of any size is printed as it comes.

use std::io::{self, Write};

/// Rows that are looked at for the widths.
const LOOK_AT: usize = 1000;
/// A column is made no wider than this for the sake of one long value.
const WIDEST: usize = 60;

/// A table that is being printed.
pub struct Table {
    columns: Vec<Column>,
    waiting: Vec<Vec<Option<String>>>,
    begun: bool,
    count: u64,
}

struct Column {
    name: String,
    to_the_right: bool,
    width: usize,
}

impl Table {
    /// An empty table; each column with its name and whether it holds numbers.
    pub fn new(columns: impl Iterator<Item = (String, bool)>) -> Table {
        let columns = columns
            .map(|(name, to_the_right)| Column {
                width: width_of(&name),
                name,
                to_the_right,
            })
            .collect();
        Table {
            columns,
            waiting: Vec::new(),
            begun: false,
            count: 0,
        }
    }

    /// Adds a row; NULL is `None`.
    ///
    /// # Errors
    /// The output's.
    pub fn row(&mut self, out: &mut impl Write, row: Vec<Option<String>>) -> io::Result<()> {
        self.count += 1;
        if self.begun {
            return self.print(out, &row);
        }
        for (column, value) in self.columns.iter_mut().zip(&row) {
            let width = value.as_deref().map_or(0, width_of).min(WIDEST);
            column.width = column.width.max(width);
        }
        self.waiting.push(row);
        if self.waiting.len() >= LOOK_AT {
            self.begin(out)
        } else {
            Ok(())
        }
    }

    /// Prints what is left, and how many rows there were.
    ///
    /// # Errors
    /// The output's.
    pub fn end(mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.begun {
            self.begin(out)?;
        }
        writeln!(
            out,
            "({} row{})",
            self.count,
            if self.count == 1 { "" } else { "s" }
        )
    }

    fn begin(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.begun = true;
        let names: Vec<_> = self
            .columns
            .iter()
            .map(|column| Some(column.name.clone()))
            .collect();
        self.print(out, &names)?;
        let lines: Vec<_> = self
            .columns
            .iter()
            .map(|column| "-".repeat(column.width))
            .collect();
        writeln!(out, "{}", lines.join("  "))?;
        for row in std::mem::take(&mut self.waiting) {
            self.print(out, &row)?;
        }
        Ok(())
    }

    fn print(&self, out: &mut impl Write, row: &[Option<String>]) -> io::Result<()> {
        let mut line = String::new();
        for (column, value) in self.columns.iter().zip(row) {
            let value = value
                .as_deref()
                .unwrap_or_default()
                .replace('\n', "\\n")
                .replace('\t', "\\t");
            let blanks = " ".repeat(column.width.saturating_sub(width_of(&value)));
            let (before, after) = if column.to_the_right {
                (blanks.as_str(), "")
            } else {
                ("", blanks.as_str())
            };
            line.extend([before, &value, after, "  "]);
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn width_of(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut out = Vec::new();
        let mut table =
            Table::new([("id".to_owned(), true), ("name".to_owned(), false)].into_iter());
        table
            .row(&mut out, vec![Some("1".into()), Some("a\nb".into())])
            .unwrap();
        table
            .row(&mut out, vec![Some("1000".into()), None])
            .unwrap();
        table.end(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  id  name\n----  ----\n   1  a\\nb\n1000\n(2 rows)\n"
        );
    }
}

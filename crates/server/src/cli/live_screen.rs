//! A live query's result as a table in a terminal, drawn again in place whenever it changes.
//!
//! Lines are cut to the terminal's width and rows to its height, so that what was drawn can always be
//! drawn over. Nothing that comes from the server reaches the terminal as a control character.

use std::io::Write;

use serde_json::Value;

/// Rows by key, in their order, and what has been drawn of them.
#[derive(Debug, Default)]
pub struct Screen {
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
    /// The cursor that has been reached.
    position: String,
    /// Changes since the start.
    changes: u64,
    /// Lines on the screen that are ours.
    drawn: usize,
}

/// Columns and lines of the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

impl Size {
    /// The terminal's size now; 80 by 24 where it does not say.
    #[must_use]
    pub fn of(terminal: impl std::os::fd::AsFd) -> Size {
        let found = rustix::termios::tcgetwinsize(terminal).ok();
        let of = |size: Option<u16>, default: usize| {
            size.map(usize::from)
                .filter(|size| *size > 0)
                .unwrap_or(default)
        };
        Size {
            width: of(found.as_ref().map(|size| size.ws_col), 80),
            height: of(found.as_ref().map(|size| size.ws_row), 24),
        }
    }
}

impl Screen {
    /// Takes an event; whether there is something new to draw.
    pub fn take(&mut self, event: &str, data: &Value, id: Option<&str>) -> bool {
        let list = |name: &str| data[name].as_array().map_or(&[][..], Vec::as_slice);
        match event {
            "snapshot" => {
                let names = list("columns").iter();
                self.columns = names.map(|column| shown(&column["name"])).collect();
                for (key, row) in list("keys").iter().zip(list("rows")) {
                    self.rows.push((key.to_string(), cells(row)));
                }
                return false;
            }
            "must-refetch" => {
                self.restart();
                return false;
            }
            "ready" | "progress" => {}
            "change" => {
                self.changes += 1;
                for name in ["removed", "changed"] {
                    for entry in list(name) {
                        let key = entry["key"].to_string();
                        if let Some(at) = self.rows.iter().position(|(known, _)| *known == key) {
                            self.rows.remove(at);
                        }
                    }
                }
                let mut coming: Vec<&Value> = list("changed").iter().chain(list("added")).collect();
                coming.sort_by_key(|entry| entry["position"].as_u64());
                for entry in coming {
                    let place = entry["position"]
                        .as_u64()
                        .and_then(|p| usize::try_from(p).ok());
                    let place = place.unwrap_or(self.rows.len()).min(self.rows.len());
                    let row = (entry["key"].to_string(), cells(&entry["row"]));
                    self.rows.insert(place, row);
                }
            }
            _ => return false,
        }
        if let Some(id) = id {
            self.position = id.to_owned();
        }
        true
    }

    /// Draws it over what has been drawn before.
    ///
    /// # Errors
    /// The terminal's.
    pub fn draw(&mut self, out: &mut impl Write, size: Size) -> std::io::Result<()> {
        let lines = self.lines(size);
        // In one write, so that no half of it is ever seen.
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J");
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// A new snapshot follows.
    pub fn restart(&mut self) {
        self.rows.clear();
    }

    /// What was drawn stays; what comes next is below it.
    pub fn leave(&mut self) {
        self.drawn = 0;
    }

    fn lines(&self, size: Size) -> Vec<String> {
        // A head, its rule, the last line, and the line of the cursor.
        let room = size.height.saturating_sub(5).max(1);
        let visible = &self.rows[..self.rows.len().min(room)];
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|place| {
                let cells = visible.iter().filter_map(|(_, row)| row.get(place));
                let widest = cells.map(|cell| width(cell)).max().unwrap_or(0);
                widest.max(width(&self.columns[place]))
            })
            .collect();
        let line = |cells: &[String]| {
            let cells: Vec<String> = (cells.iter().zip(&widths))
                .map(|(cell, widest)| format!("{cell}{}", " ".repeat(widest - width(cell))))
                .collect();
            cut(cells.join(" │ ").trim_end(), size.width)
        };
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut lines = vec![line(&self.columns), cut(&rule.join("─┼─"), size.width)];
        lines.extend(visible.iter().map(|(_, row)| line(row)));
        let hidden = self.rows.len() - visible.len();
        let more = if hidden > 0 {
            format!(", {hidden} more below")
        } else {
            String::new()
        };
        let (rows, changes) = (self.rows.len(), self.changes);
        lines.push(cut(
            &format!(
                "({rows} row{}{more}; {changes} change{}; at {})",
                if rows == 1 { "" } else { "s" },
                if changes == 1 { "" } else { "s" },
                self.position
            ),
            size.width,
        ));
        lines
    }
}

fn cells(row: &Value) -> Vec<String> {
    row.as_array().into_iter().flatten().map(shown).collect()
}

/// A value as text without anything that a terminal would act upon.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars()
        .map(|c| if c.is_control() { '�' } else { c })
        .collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    text.chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZE: Size = Size {
        width: 24,
        height: 8,
    };

    fn with(rows: &[(&str, &str, i64)]) -> Screen {
        let mut screen = Screen::default();
        let data = json!({
            "columns": [{"name": "id"}, {"name": "qty"}],
            "keys": rows.iter().map(|row| row.0).collect::<Vec<_>>(),
            "rows": rows.iter().map(|row| json!([row.1, row.2])).collect::<Vec<_>>(),
        });
        assert!(!screen.take("snapshot", &data, None));
        assert!(screen.take("ready", &json!({}), Some("7@aa")));
        screen
    }

    #[test]
    fn a_result_is_drawn_as_a_table_and_drawn_over() {
        let mut screen = with(&[("a", "a", 1), ("b", "long name", 20)]);
        let mut out = Vec::new();
        screen.draw(&mut out, SIZE).unwrap();
        let expected = "\r\x1b[Jid        │ qty\n──────────┼────\na         │ 1\nlong name │ 20\n\
                        (2 rows; 0 changes; at …\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let change = json!({ "removed": [{"key": "a"}], "changed": [], "added": [
            {"key": "c", "row": ["c", 3], "position": 0}] });
        assert!(screen.take("change", &change, Some("8@aa")));
        let mut out = Vec::new();
        screen.draw(&mut out, SIZE).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("\x1b[5A\r\x1b[J"), "{text:?}");
        let rows: Vec<&str> = text.lines().skip(2).take(2).collect();
        assert_eq!(rows, ["c         │ 3", "long name │ 20"]);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_control_characters_are_not_obeyed() {
        let names: Vec<String> = (0..9).map(|n| format!("\x1b[2Jrow\t{n}")).collect();
        let rows: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), name.as_str(), 1))
            .collect();
        let mut screen = with(&rows);
        let mut out = Vec::new();
        screen.draw(&mut out, SIZE).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\x1b').count(), 1);
        assert_eq!(text.lines().count(), 6);
        assert!(
            text.lines()
                .all(|line| width(line) <= 24 + "\r\x1b[J".len())
        );
        assert!(text.ends_with("(9 rows, 6 more below; …\n"), "{text}");
    }
}

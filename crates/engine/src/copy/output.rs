//! Rows into COPY's data.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{RowRef, SqlError};
use springhead_sql::plan::{CopyFormat, CopyHeader, CopyOptions, OutputColumn};
use springhead_sql::types::{output_binary, output_text};

use super::CopyProgress;
use super::binary::SIGNATURE;

/// The form of a result that is copied out.
#[derive(Debug, Clone)]
pub struct CopyOut {
    options: CopyOptions,
    columns: Arc<[OutputColumn]>,
    progress: Arc<CopyProgress>,
    scratch: Vec<u8>,
}

impl CopyOut {
    pub(crate) fn new(
        options: CopyOptions,
        columns: Arc<[OutputColumn]>,
        progress: Arc<CopyProgress>,
    ) -> CopyOut {
        CopyOut {
            options,
            columns,
            progress,
            scratch: Vec::new(),
        }
    }

    /// Whether data and columns are binary.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.options.format == CopyFormat::Binary
    }

    /// How many columns there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Appends what comes before the rows; nothing may.
    pub fn head(&mut self, out: &mut Vec<u8>) {
        if self.is_binary() {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[0; 8]);
            return;
        }
        if self.options.header == CopyHeader::No {
            return;
        }
        for index in 0..self.columns.len() {
            self.delimit(index, out);
            let name = self.columns[index].name.clone();
            self.scratch.clear();
            self.scratch.extend_from_slice(name.as_bytes());
            self.value(false, out);
        }
        out.push(b'\n');
    }

    /// Appends one row.
    ///
    /// # Errors
    /// None now; a value that does not fit the form would be one.
    pub fn row(&mut self, out: &mut Vec<u8>, row: RowRef<'_>) -> Result<(), SqlError> {
        let start = out.len();
        if self.is_binary() {
            self.binary_row(out, row);
        } else {
            for (index, value) in row.values().enumerate() {
                self.delimit(index, out);
                if value.is_null() {
                    out.extend_from_slice(self.options.null.as_bytes());
                    continue;
                }
                self.scratch.clear();
                output_text(&self.columns[index].pg_type, value, &mut self.scratch);
                let force = self.options.force_quote.get(index).copied();
                self.value(force.unwrap_or(false), out);
            }
            out.push(b'\n');
        }
        self.progress.rows.fetch_add(1, Ordering::Relaxed);
        let bytes = (out.len() - start) as u64;
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Appends what comes after the rows; nothing may.
    pub fn end(&self, out: &mut Vec<u8>) {
        if self.is_binary() {
            out.extend_from_slice(&(-1_i16).to_be_bytes());
        }
    }

    fn delimit(&self, index: usize, out: &mut Vec<u8>) {
        if index > 0 {
            out.push(self.options.delimiter);
        }
    }

    fn binary_row(&self, out: &mut Vec<u8>, row: RowRef<'_>) {
        let count = i16::try_from(row.len()).unwrap_or(i16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for (index, value) in row.values().enumerate() {
            let at = out.len();
            if value.is_null() {
                out.extend_from_slice(&(-1_i32).to_be_bytes());
                continue;
            }
            out.extend_from_slice(&[0; 4]);
            output_binary(&self.columns[index].pg_type, value, out);
            let length = i32::try_from(out.len() - at - 4).unwrap_or(i32::MAX);
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Appends the text in `scratch` in the data's form.
    fn value(&mut self, force_quote: bool, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.scratch);
        if self.options.format == CopyFormat::Csv {
            self.csv_value(&text, force_quote, out);
        } else {
            self.text_value(&text, out);
        }
        self.scratch = text;
    }

    fn text_value(&self, text: &[u8], out: &mut Vec<u8>) {
        for &byte in text {
            let letter = match byte {
                8 => b'b',
                12 => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                11 => b'v',
                b'\\' => b'\\',
                other if other == self.options.delimiter => other,
                other => {
                    out.push(other);
                    continue;
                }
            };
            out.extend_from_slice(&[b'\\', letter]);
        }
    }

    fn csv_value(&self, text: &[u8], force_quote: bool, out: &mut Vec<u8>) {
        let CopyOptions {
            delimiter,
            quote,
            escape,
            ref null,
            ..
        } = self.options;
        let needs_quotes = force_quote
            || text == null.as_bytes()
            || (self.columns.len() == 1 && text == b"\\.")
            || text
                .iter()
                .any(|&byte| byte == delimiter || byte == quote || byte == b'\n' || byte == b'\r');
        if !needs_quotes {
            out.extend_from_slice(text);
            return;
        }
        out.push(quote);
        for &byte in text {
            if byte == quote || byte == escape {
                out.push(escape);
            }
            out.push(byte);
        }
        out.push(quote);
    }
}

//! How settings are written: sizes, durations, counts, lists. One trait, so that the file, the
//! environment and the flags read the same texts.

use std::path::PathBuf;
use std::time::Duration;

/// A size in bytes; written `64KiB`, `16MiB`, `1GiB` or as a bare number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// As a size of something in memory.
    #[must_use]
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The size that something in memory has.
    #[must_use]
    pub fn of(bytes: usize) -> Size {
        Size(bytes as u64)
    }
}

/// A type that settings have.
pub trait SettingValue: Sized {
    /// What a value looks like, for help and messages.
    const KIND: &'static str;

    /// Reads a value.
    ///
    /// # Errors
    /// What was expected instead.
    fn read(text: &str) -> Result<Self, String>;

    /// The value as [`SettingValue::read`] takes it.
    fn text(&self) -> String;

    /// The value in a TOML file.
    fn toml(&self) -> String {
        quoted(&self.text())
    }
}

const UNITS_BYTES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl SettingValue for Size {
    const KIND: &'static str = "SIZE";

    fn read(text: &str) -> Result<Size, String> {
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| expected_size(text))?;
        let scale = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(expected_size(text)),
        };
        number
            .checked_mul(scale)
            .map(Size)
            .ok_or_else(|| expected_size(text))
    }

    fn text(&self) -> String {
        let (unit, scale) = UNITS_BYTES
            .into_iter()
            .find(|(_, scale)| self.0.is_multiple_of(*scale) && self.0 >= *scale)
            .unwrap_or(("B", 1));
        format!("{}{unit}", self.0 / scale)
    }
}

fn expected_size(text: &str) -> String {
    format!("expected a size such as 64KiB, 16MiB or 1GiB, not \"{text}\"")
}

const UNITS_MS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl SettingValue for Duration {
    const KIND: &'static str = "DURATION";

    fn read(text: &str) -> Result<Duration, String> {
        let expected =
            || format!("expected a duration such as 500ms, 10s, 5min, 1h or 7d, not \"{text}\"");
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| expected())?;
        let scale = match unit.to_ascii_lowercase().as_str() {
            "us" => return Ok(Duration::from_micros(number)),
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if number == 0 => 1,
            _ => return Err(expected()),
        };
        number
            .checked_mul(scale)
            .map(Duration::from_millis)
            .ok_or_else(expected)
    }

    fn text(&self) -> String {
        let ms = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        if u128::from(ms) * 1_000_000 != self.as_nanos() {
            return format!("{}us", self.as_micros());
        }
        let (unit, scale) = UNITS_MS
            .into_iter()
            .find(|(_, scale)| ms.is_multiple_of(*scale) && ms >= *scale)
            .unwrap_or(("s", 1_000));
        format!("{}{unit}", ms / scale)
    }
}

/// A setting that can be switched off with `off`.
impl SettingValue for Option<Duration> {
    const KIND: &'static str = "DURATION|off";

    fn read(text: &str) -> Result<Option<Duration>, String> {
        if is_off(text) {
            return Ok(None);
        }
        Duration::read(text)
            .map(Some)
            .map_err(|error| format!("{error}; off switches it off"))
    }

    fn text(&self) -> String {
        self.as_ref()
            .map_or_else(|| "off".to_owned(), Duration::text)
    }
}

impl SettingValue for Option<i32> {
    const KIND: &'static str = "NUMBER|off";

    fn read(text: &str) -> Result<Option<i32>, String> {
        if is_off(text) {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| format!("expected a number or off, not \"{text}\""))
    }

    fn text(&self) -> String {
        self.map_or_else(|| "off".to_owned(), |number| number.to_string())
    }
}

macro_rules! whole_numbers {
    ($($type:ty)+) => {$(
        impl SettingValue for $type {
            const KIND: &'static str = "NUMBER";

            fn read(text: &str) -> Result<$type, String> {
                text.parse().map_err(|_| format!("expected a whole number, not \"{text}\""))
            }

            fn text(&self) -> String {
                self.to_string()
            }

            fn toml(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

whole_numbers!(u32 u64 usize);

impl SettingValue for bool {
    const KIND: &'static str = "on|off";

    fn read(text: &str) -> Result<bool, String> {
        match text {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err(format!("expected on or off, not \"{text}\"")),
        }
    }

    fn text(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

macro_rules! words {
    ($($type:ty, $kind:literal;)+) => {$(
        impl SettingValue for $type {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<$type, String> {
                text.parse().map_err(|error: springhead_proto::SqlError| error.message.clone())
            }

            fn text(&self) -> String {
                self.word().to_owned()
            }
        }
    )+};
}

words! {
    springhead_engine::dead_letters::Action, "drop|escalate|force_apply_lww";
    springhead_engine::dead_letters::OnFull, "escalate|reject_push";
}

impl SettingValue for String {
    const KIND: &'static str = "TEXT";

    fn read(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl SettingValue for PathBuf {
    const KIND: &'static str = "PATH";

    fn read(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            Err("expected a path".to_owned())
        } else {
            Ok(PathBuf::from(text))
        }
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// Written with commas between the items; an array in a TOML file.
impl SettingValue for Vec<String> {
    const KIND: &'static str = "LIST";

    fn read(text: &str) -> Result<Vec<String>, String> {
        Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn text(&self) -> String {
        self.join(",")
    }

    fn toml(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

fn is_off(text: &str) -> bool {
    matches!(text, "off" | "none" | "never")
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start())
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => {
                out.push_str(&format!("\\u{:04X}", u32::from(control)))
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: SettingValue + PartialEq + std::fmt::Debug>(text: &str, value: T) {
        assert_eq!(T::read(text).unwrap(), value, "{text}");
        assert_eq!(T::read(&value.text()).unwrap(), value, "{}", value.text());
    }

    #[test]
    fn sizes_take_units() {
        round_trip("64KiB", Size(64 << 10));
        round_trip("1 GiB", Size(1 << 30));
        round_trip("16mb", Size(16 << 20));
        round_trip("123", Size(123));
        round_trip("0", Size(0));
        assert_eq!(Size(1 << 30).text(), "1GiB");
        for bad in ["", "MiB", "-1", "1.5MiB", "1XiB", "99999999999TiB"] {
            assert!(Size::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_take_units_and_need_them() {
        round_trip("500ms", Duration::from_millis(500));
        round_trip("10s", Duration::from_secs(10));
        round_trip("7d", Duration::from_secs(7 * 86_400));
        round_trip("90s", Duration::from_secs(90));
        round_trip("0", Duration::ZERO);
        round_trip("50us", Duration::from_micros(50));
        round_trip("off", None::<Duration>);
        round_trip("1min", Some(Duration::from_secs(60)));
        for bad in ["10", "", "s", "-1s", "1 fortnight"] {
            assert!(Duration::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_survive_a_toml_file() {
        let odd = "a\"b\\c\nd";
        let table: toml::Table = format!("x = {}", odd.to_owned().toml()).parse().unwrap();
        assert_eq!(table["x"].as_str(), Some(odd));
    }
}

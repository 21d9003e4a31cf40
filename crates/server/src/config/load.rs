//! Where values come from: flags before environment before file before default, and what is wrong with
//! them together.

use std::fmt::Write;
use std::path::Path;

use super::error::{ConfigError, Source, nearest};
use super::{Config, DEFAULT_FILE, ENVIRONMENT_PREFIX, KEYS, OTHER_VARIABLES};

impl Config {
    /// Loads from every source. `flags` and `environment` are names (of settings, and of
    /// variables) with values; `file` is the file named by the user, if any.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(
        flags: &[(String, String)],
        environment: &[(String, String)],
        file: Option<&Path>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        match file {
            Some(path) => config.apply_file(path)?,
            None if Path::new(DEFAULT_FILE).is_file() => {
                config.apply_file(Path::new(DEFAULT_FILE))?
            }
            None => {}
        }
        for (variable, text) in environment {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            if OTHER_VARIABLES.contains(&name) {
                continue;
            }
            match config.apply(Source::Environment, &name.to_ascii_lowercase(), text) {
                Err(ConfigError::UnknownName { .. }) => {
                    tracing::warn!(
                        variable,
                        "an environment variable that no setting has is ignored"
                    );
                }
                applied => applied?,
            }
        }
        for (name, text) in flags {
            config.apply(Source::Flag, name, text)?;
        }
        config.check()?;
        Ok(config)
    }

    /// The settings in force, as a TOML file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                section = key.section;
                writeln!(out, "{}# {section}", if out.is_empty() { "" } else { "\n" })
                    .expect("writing to a string does not fail");
            }
            let value = self.toml(key.name).expect("every key has a field");
            writeln!(out, "{} = {value}", key.name).expect("writing to a string does not fail");
        }
        out
    }

    fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let table: toml::Table =
            text.parse()
                .map_err(|error: toml::de::Error| ConfigError::Malformed {
                    path: path.to_owned(),
                    what: error.to_string(),
                })?;
        for (name, value) in &table {
            let text = toml_text(value).ok_or_else(|| ConfigError::BadValue {
                origin: Source::File,
                name: name.clone(),
                what: "expected a plain value; settings are not grouped in tables".to_owned(),
            })?;
            self.apply(Source::File, name, &text)?;
        }
        Ok(())
    }

    fn apply(&mut self, source: Source, name: &str, text: &str) -> Result<(), ConfigError> {
        self.set(name, text).map_err(|what| match what {
            Some(what) => ConfigError::BadValue {
                origin: source,
                name: name.to_owned(),
                what,
            },
            None => ConfigError::UnknownName {
                origin: source,
                name: name.to_owned(),
                nearest: nearest(name),
            },
        })
    }

    /// What no single value can tell.
    fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("pg_max_connections", self.pg_max_connections),
            (
                "pg_max_connections_per_tenant",
                self.pg_max_connections_per_tenant,
            ),
            ("http_max_connections", self.http_max_connections),
            ("worker_threads", self.worker_threads),
            ("readers_per_tenant", self.readers_per_tenant),
            ("open_tenants", self.open_tenants),
            ("http_max_headers", self.http_max_headers),
            ("max_group", self.max_group),
            (
                "dead_letter_max_entries",
                usize::try_from(self.dead_letter_max_entries).unwrap_or(usize::MAX),
            ),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(ConfigError::Impossible {
                    name,
                    what: "must be at least 1".to_owned(),
                });
            }
        }
        self.check_standbys()?;
        let intervals = [
            ("maintenance_interval", self.maintenance_interval),
            (
                "dead_letter_sweep_interval",
                self.dead_letter_sweep_interval,
            ),
        ];
        for (name, interval) in intervals {
            if interval.is_zero() {
                return Err(ConfigError::Impossible {
                    name,
                    what: "must not be 0".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Size;
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let file = file(
            "pg = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:1\"\nmax_row_bytes = \"1MiB\"\ncors_origins = [\"a\", \"b\"]\n",
        );
        let environment = pairs(&[
            ("SPRINGHEAD_PG", "127.0.0.1:2"),
            ("SPRINGHEAD_HTTP", "127.0.0.1:2"),
            ("HOME", "/"),
        ]);
        let flags = pairs(&[("pg", "127.0.0.1:3")]);
        let config = Config::load(&flags, &environment, Some(file.path())).unwrap();
        assert_eq!(config.pg, "127.0.0.1:3");
        assert_eq!(config.http, "127.0.0.1:2");
        assert_eq!(config.max_row_bytes, Size(1 << 20));
        assert_eq!(config.cors_origins, ["a", "b"]);
        assert_eq!(
            config.max_statement_bytes,
            Config::default().max_statement_bytes
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let file = file("max_row_byte = 1\n");
        let error = Config::load(&[], &[], Some(file.path()))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "configuration file: no setting is called \"max_row_byte\"; did you mean max_row_bytes?"
        );
        let error =
            Config::load(&pairs(&[("zzzzzzzzzz", "1")]), &[], Some(file.path())).unwrap_err();
        assert!(matches!(error, ConfigError::UnknownName { .. }));
    }

    #[test]
    fn an_unknown_variable_is_no_reason_not_to_start() {
        let empty = file("");
        let environment = pairs(&[("SPRINGHEAD_SERVICE_HOST", "10.0.0.1")]);
        assert_eq!(
            Config::load(&[], &environment, Some(empty.path())).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn bad_values_are_named() {
        let empty = file("");
        let error = Config::load(
            &pairs(&[("max_row_bytes", "lots")]),
            &[],
            Some(empty.path()),
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.starts_with("command line: max_row_bytes: expected a size"),
            "{error}"
        );
        let error = Config::load(&pairs(&[("max_group", "0")]), &[], Some(empty.path()))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "max_group must be at least 1");
        let grouped = file("[engine]\nmax_group = 1\n");
        assert!(Config::load(&[], &[], Some(grouped.path())).is_err());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let config = Config {
            lock_timeout: Some(Duration::from_millis(1500)),
            cors_origins: vec!["x".into()],
            ..Config::default()
        };
        let printed = file(&config.to_toml());
        assert_eq!(
            Config::load(&[], &[], Some(printed.path())).unwrap(),
            config
        );
    }
}

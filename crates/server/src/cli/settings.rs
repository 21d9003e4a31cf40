//! The flags of `serve`: one for each setting, made from the settings' own table.

use std::path::Path;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, ConfigError, KEYS};

/// Settings that the short help shows; `--help` shows all.
const FOREMOST: [&str; 4] = ["data_dir", "pg", "http", "log_level"];

/// The settings given as flags: names and values.
#[derive(Debug, Default)]
pub struct SettingFlags {
    pub given: Vec<(String, String)>,
}

impl Args for SettingFlags {
    fn augment_args(mut command: Command) -> Command {
        let defaults = Config::default();
        for key in KEYS {
            let default = defaults.get(key.name).unwrap_or_default();
            let default = if default.is_empty() {
                String::new()
            } else {
                format!(" [default: {default}]")
            };
            command = command.arg(
                Arg::new(key.name)
                    .long(key.name.replace('_', "-"))
                    .value_name(key.kind)
                    .help(format!("{}{default}", key.text()))
                    .help_heading(key.section)
                    .hide_short_help(!FOREMOST.contains(&key.name)),
            );
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, clap::Error> {
        let given = KEYS
            .iter()
            .filter_map(|key| {
                matches
                    .get_one::<String>(key.name)
                    .map(|value| (key.name.to_owned(), value.clone()))
            })
            .collect();
        Ok(SettingFlags { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The settings in force, with the process's environment.
///
/// # Errors
/// [`ConfigError`].
pub fn load(flags: &[(String, String)], file: Option<&Path>) -> Result<Config, ConfigError> {
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        })
        .collect();
    Config::load(flags, &environment, file)
}

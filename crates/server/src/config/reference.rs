//! `docs/configuration.md`, made from the settings themselves, so that it cannot fall behind.

use std::fmt::Write;

use super::{Config, ENVIRONMENT_PREFIX, KEYS};

const HEAD: &str = "\
# Configuration

Every setting has one name. It can be given as a flag (`--max-row-bytes 8MiB`), in the environment
(`SPRINGHEAD_MAX_ROW_BYTES=8MiB`) and in a TOML file (`max_row_bytes = \"8MiB\"`). A flag wins over
the environment, the environment over the file, the file over the default.

The file is `springhead.toml` in the current directory if there is one, or what `--config` (or
`SPRINGHEAD_CONFIG`) names. A name that no setting has is refused, in the file and among the flags;
in the environment, where orchestrators put variables of their own, it is a warning.
`springhead serve --print-config` prints what is in force, as a file that can be used again.

Sizes are written `64KiB`, `16MiB`, `1GiB`, or as a number of bytes; durations `500ms`, `10s`,
`5min`, `1h`, `7d`; lists with commas, or as an array in the file.

This page is made from the source; a test fails when it is out of date.
";

/// How the other commands find and trust a server; they have no file.
const CLIENTS: &str = "
## The commands that talk to a server

`sql`, `tenant`, `user` and `token` take `--url postgres://[USER@]HOST:PORT[/TENANT][?sslmode=MODE]`,
`tail`, `live` and `status` take `--url http[s]://HOST:PORT`; without it they look for the local server.

| option | environment | meaning |
| --- | --- | --- |
| `--tls-ca FILE` | `SPRINGHEAD_TLS_CA`, else `PGSSLROOTCERT` | File (PEM) of the authorities that may sign the server's certificate, or of that certificate itself; else the system's authorities. |
| `?sslmode=` | `PGSSLMODE` | `disable`: no TLS. `prefer`: TLS if the server has it, whoever it is. `require`: TLS, whoever it is (with `--tls-ca` as `verify-ca`). `verify-ca`: a certificate of a trusted authority. `verify-full`: and for the host's name. With `--tls-ca` the default is `verify-full`, without it `prefer`. |
| | `PGUSER`, `PGPASSWORD` | Who logs in; the password is asked for on a terminal. Over TLS the login is bound to the connection (SCRAM-SHA-256-PLUS). |
| | `SPRINGHEAD_TOKEN` | The API token or JWT of `tail`, `live` and `status`. |

With `https://` the server's certificate is always verified, to the host's name.
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let defaults = Config::default();
    let mut page = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            write!(
                page,
                "\n## {section}\n\n| setting | default | meaning |\n| --- | --- | --- |\n"
            )
            .expect("writing to a string does not fail");
        }
        let default = defaults.get(key.name).unwrap_or_default();
        let default = if default.is_empty() {
            "(empty)".to_owned()
        } else {
            format!("`{default}`")
        };
        writeln!(
            page,
            "| `{}` | {default} | {} |",
            key.name,
            key.text().replace('|', "\\|")
        )
        .expect("writing to a string does not fail");
    }
    page.push_str(CLIENTS);
    page.push_str(super::super::cli::EXIT_CODES_MARKDOWN);
    writeln!(
        page,
        "\nEnvironment variables are the setting's name in capitals after `{ENVIRONMENT_PREFIX}`. \
         `SPRINGHEAD_CONFIG` names the file."
    )
    .expect("writing to a string does not fail");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SPRINGHEAD_UPDATE_GOLDEN=1` writes the page instead.
    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let wanted = markdown();
        if std::env::var_os("SPRINGHEAD_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/configuration.md is out of date: run this test with SPRINGHEAD_UPDATE_GOLDEN=1"
        );
    }
}

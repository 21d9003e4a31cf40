//! `springhead status`: what `/v1/status` says.

use super::http_client::{Target, get};
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct StatusArgs {
    /// The server [default: the local one]
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// The answer as it came
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: StatusArgs) -> Result<(), CliError> {
    let target = Target::read(args.url.as_deref(), &args.tls)?;
    let unreachable = |error| CliError::Unreachable(format!("{}: {error}", target.host_port));
    let response = get(&target, "/v1/status", &[]).await.map_err(unreachable)?;
    let status = response.status;
    let body = response.body().await.map_err(unreachable)?;
    if status != 200 {
        return Err(CliError::Failed(format!(
            "the server answered {status}: {body}"
        )));
    }
    if args.json {
        return print_line(body.trim_end());
    }
    let value: serde_json::Value = serde_json::from_str(&body)
        .map_err(|error| CliError::Failed(format!("the answer is no JSON: {error}")))?;
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        print_line(&format!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// Prints a line; whoever reads it may have read enough.
pub(super) fn print_line(line: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{line}").map_err(CliError::Output)
}

/// Nested names joined with dots.
fn flatten(prefix: &str, value: &serde_json::Value, lines: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let name = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(&name, value, lines);
            }
        }
        serde_json::Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}

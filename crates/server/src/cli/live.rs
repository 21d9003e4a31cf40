//! `springhead live`: shows a SELECT's result and what changes in it, and goes on from its cursor
//! when the connection breaks.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::http_client::{Target, encode, get};
use super::tail::{Broken, Event, next_event, refusal};
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES};

const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct LiveArgs {
    /// The SELECT
    sql: String,
    /// Values of $1, $2, … as a JSON array
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Goes on from this cursor, with what has changed since
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// The tenant's number
    #[arg(long, value_name = "ID")]
    tenant: Option<u32>,
    /// Each event as a line of JSON
    #[arg(long)]
    json: bool,
    /// The server [default: the local one]
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Follows until Ctrl-C, which is a proper end.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: LiveArgs) -> Result<(), CliError> {
    let target = Target::read(args.url.as_deref(), &args.tls)?;
    tokio::select! {
        followed = follow(&args, &target) => followed,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| CliError::Failed(format!("listen to signals: {error}")))
        }
    }
}

async fn follow(args: &LiveArgs, target: &Target) -> Result<(), CliError> {
    let mut path = format!("/live?before=true&sql={}", encode(&args.sql));
    if let Some(params) = &args.params {
        path.push_str(&format!("&params={}", encode(params)));
    }
    if let Some(tenant) = args.tenant {
        path.push_str(&format!("&tenant_id={tenant}"));
    }
    let mut cursor = args.since.clone();
    let mut connected = false;
    loop {
        let Err(broken) = one_connection(args, target, &path, &mut cursor, &mut connected).await
        else {
            return Ok(());
        };
        match broken {
            Broken::Refused(error) => return Err(error),
            Broken::Lost(error) if !connected => {
                return Err(CliError::Unreachable(format!(
                    "{}: {error}",
                    target.host_port
                )));
            }
            Broken::Lost(error) => {
                let from = cursor.as_deref().unwrap_or("a new snapshot");
                eprintln!(
                    "springhead: {}: {error}; going on from {from}",
                    target.host_port
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn one_connection(
    args: &LiveArgs,
    target: &Target,
    path: &str,
    cursor: &mut Option<String>,
    connected: &mut bool,
) -> Result<(), Broken> {
    let mut headers = vec![("accept", "text/event-stream")];
    let from = cursor.clone();
    headers.extend(from.iter().map(|cursor| ("last-event-id", cursor.as_str())));
    let mut response = get(target, path, &headers).await.map_err(Broken::Lost)?;
    if response.status == 503 {
        return Err(Broken::Lost(std::io::Error::other(
            "the server is not ready",
        )));
    }
    if response.status != 200 {
        let status = response.status;
        let body = response.body().await.map_err(Broken::Lost)?;
        return Err(Broken::Refused(CliError::Failed(refusal(status, &body))));
    }
    *connected = true;
    while let Some(event) = next_event(&mut response).await.map_err(Broken::Lost)? {
        if matches!(event.name.as_str(), "must-refetch" | "error") {
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            let why = data["message"].as_str().unwrap_or(&event.data).to_owned();
            return Err(Broken::Refused(CliError::Failed(format!(
                "the live query has ended: {why}"
            ))));
        }
        show(args, &event).map_err(|error| Broken::Refused(CliError::Output(error)))?;
        if let Some(id) = event.id {
            *cursor = Some(id);
        }
    }
    Err(Broken::Lost(std::io::Error::other(
        "the server ended the stream",
    )))
}

/// One line per row: `=` it is there, `+` it came, `~` it changed, `-` it went.
fn show(args: &LiveArgs, event: &Event) -> std::io::Result<()> {
    if event.data.is_empty() || event.name == "progress" {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let name = Value::from(event.name.as_str());
        writeln!(out, "{{\"event\":{name},\"data\":{}}}", event.data)?;
        return out.flush();
    }
    let data: Value = serde_json::from_str(&event.data)?;
    let list = |name: &str| data[name].as_array().cloned().unwrap_or_default();
    for row in list("rows") {
        writeln!(out, "= {row}")?;
    }
    for (mark, name) in [("-", "removed"), ("~", "changed"), ("+", "added")] {
        for entry in list(name) {
            writeln!(out, "{mark} {}", entry["row"])?;
        }
    }
    let lsn = &data["lsn"];
    if !lsn.is_null() {
        writeln!(out, "-- LSN {lsn}")?;
    }
    out.flush()
}

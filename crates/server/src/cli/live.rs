//! `springhead live`: keeps a SELECT's result in the terminal, or writes what changes in it line by line
//! where there is none; goes on from its cursor when the connection breaks.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::http_client::{Target, encode, get};
use super::live_screen::{Screen, Size};
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
    /// A line for each row that comes, changes or goes, also in a terminal
    #[arg(long)]
    lines: bool,
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
    let mut path = format!("/live?before=true&refetch=true&sql={}", encode(&args.sql));
    if let Some(params) = &args.params {
        path.push_str(&format!("&params={}", encode(params)));
    }
    if let Some(tenant) = args.tenant {
        path.push_str(&format!("&tenant_id={tenant}"));
    }
    let mut state = State {
        cursor: args.since.clone(),
        connected: false,
        screen: (std::io::stdout().is_terminal() && !args.json && !args.lines)
            .then(Screen::default),
    };
    loop {
        let Err(broken) = one_connection(args, target, &path, &mut state).await else {
            return Ok(());
        };
        match broken {
            Broken::Refused(error) => return Err(error),
            Broken::Lost(error) if !state.connected => {
                return Err(CliError::Unreachable(format!(
                    "{}: {error}",
                    target.host_port
                )));
            }
            Broken::Lost(error) => {
                let from = state.cursor.as_deref().unwrap_or("a new snapshot");
                if let Some(screen) = &mut state.screen {
                    screen.leave();
                }
                eprintln!(
                    "springhead: {}: {error}; going on from {from}",
                    target.host_port
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What lasts from connection to connection.
struct State {
    cursor: Option<String>,
    /// Whether there has been one.
    connected: bool,
    /// In a terminal: the result.
    screen: Option<Screen>,
}

fn draw(screen: &mut Screen, event: &Event) -> std::io::Result<()> {
    if event.data.is_empty() {
        return Ok(());
    }
    let data: Value = serde_json::from_str(&event.data)?;
    if screen.take(&event.name, &data, event.id.as_deref()) {
        let mut out = std::io::stdout().lock();
        screen.draw(&mut out, Size::of(std::io::stdout()))?;
    }
    Ok(())
}

async fn one_connection(
    args: &LiveArgs,
    target: &Target,
    path: &str,
    state: &mut State,
) -> Result<(), Broken> {
    let mut headers = vec![("accept", "text/event-stream")];
    let from = state.cursor.clone();
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
    state.connected = true;
    if let (None, Some(screen)) = (&from, &mut state.screen) {
        screen.restart();
    }
    while let Some(event) = next_event(&mut response).await.map_err(Broken::Lost)? {
        let begins_anew = event.name == "must-refetch" && event.id.is_none();
        if matches!(event.name.as_str(), "must-refetch" | "error") && !begins_anew {
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            let why = data["message"].as_str().unwrap_or(&event.data).to_owned();
            return Err(Broken::Refused(CliError::Failed(format!(
                "the live query has ended: {why}"
            ))));
        }
        let shown = match &mut state.screen {
            Some(screen) => draw(screen, &event),
            None => show(args, &event),
        };
        shown.map_err(|error| Broken::Refused(CliError::Output(error)))?;
        if let Some(id) = event.id {
            state.cursor = Some(id);
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

//! `springhead tail`: follows the change feed, and takes it up again from its cursor when the
//! connection breaks.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::http_client::{Response, Target, encode, get};
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct TailArgs {
    /// The collection (table); all of them if not given
    collection: Option<String>,
    /// Starts after this cursor (`42@9c1e04d7`, or a bare LSN; 0 for the beginning) instead of now
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Only rows that meet this SQL condition
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Sends the rows there are first
    #[arg(long, conflicts_with = "since")]
    snapshot: bool,
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

/// One event of the stream.
#[derive(Debug, Default)]
pub(super) struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

/// What people are shown of a change; rows as they came, to the last digit.
#[derive(serde::Deserialize)]
struct Shown<'a> {
    operation: Cow<'a, str>,
    collection: Option<Cow<'a, str>>,
    document_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

/// How a connection ended that may be tried again.
pub(super) enum Broken {
    /// Nobody was there, or is there any more.
    Lost(std::io::Error),
    /// The server will say no again.
    Refused(CliError),
}

/// Follows until Ctrl-C, which is a proper end.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: TailArgs) -> Result<(), CliError> {
    let target = Target::read(args.url.as_deref(), &args.tls)?;
    tokio::select! {
        followed = follow(&args, &target) => followed,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| CliError::Failed(format!("listen to signals: {error}")))
        }
    }
}

async fn follow(args: &TailArgs, target: &Target) -> Result<(), CliError> {
    let path = path(args);
    let mut cursor = args.since.clone();
    let mut connected = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let before = cursor.clone();
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
                if cursor != before {
                    pause = FIRST_PAUSE;
                }
                eprintln!(
                    "springhead: {}: {error}; going on from {}",
                    target.host_port,
                    cursor.as_deref().unwrap_or("now")
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn path(args: &TailArgs) -> String {
    let mut path = "/cdc".to_owned();
    if let Some(collection) = &args.collection {
        path.push('/');
        path.push_str(&encode(collection));
    }
    let mut parameters = Vec::new();
    if let Some(condition) = &args.condition {
        parameters.push(format!("where={}", encode(condition)));
    }
    if args.snapshot {
        parameters.push("snapshot=true".to_owned());
    }
    if let Some(tenant) = args.tenant {
        parameters.push(format!("tenant_id={tenant}"));
    }
    if !parameters.is_empty() {
        path.push('?');
        path.push_str(&parameters.join("&"));
    }
    path
}

async fn one_connection(
    args: &TailArgs,
    target: &Target,
    path: &str,
    cursor: &mut Option<String>,
    connected: &mut bool,
) -> Result<(), Broken> {
    let headers: Vec<_> = cursor
        .iter()
        .map(|cursor| ("last-event-id", cursor.clone()))
        .chain([("accept", "text/event-stream".to_owned())])
        .collect();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
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
        if event.name == "must-refetch" {
            return Err(Broken::Refused(CliError::Failed(format!(
                "the cursor cannot be resumed from: {}; start again with --snapshot or another --since",
                event.data
            ))));
        }
        if event.name == "error" {
            return Err(Broken::Refused(CliError::Failed(ended(&event.data))));
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

/// What the last event of a stream says that the server ends.
fn ended(data: &str) -> String {
    let error = serde_json::from_str::<Value>(data).unwrap_or_default();
    match (error["message"].as_str(), error["code"].as_str()) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        _ => format!("the server ended the stream: {data}"),
    }
}

pub(super) fn refusal(status: u16, body: &str) -> String {
    let error = serde_json::from_str::<Value>(body).unwrap_or_default();
    match error["error"]["message"].as_str() {
        Some(message) => format!(
            "{message} ({})",
            error["error"]["code"].as_str().unwrap_or_default()
        ),
        None => format!("the server answered {status}: {body}"),
    }
}

/// The next event with data; comments and `retry` are passed over.
pub(super) async fn next_event(response: &mut Response) -> std::io::Result<Option<Event>> {
    let mut event = Event::default();
    while let Some(line) = response.line().await? {
        if line.is_empty() {
            if !event.data.is_empty() || event.id.is_some() {
                return Ok(Some(event));
            }
            event = Event::default();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.name),
            "id" => event.id = Some(value.to_owned()),
            "data" => {
                if !event.data.is_empty() {
                    event.data.push('\n');
                }
                event.data.push_str(value);
            }
            _ => {}
        }
    }
    // An event without its blank line was cut off.
    Ok(None)
}

fn show(args: &TailArgs, event: &Event) -> std::io::Result<()> {
    if event.data.is_empty() || matches!(event.name.as_str(), "progress" | "ready") {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", event.data)?;
    } else {
        let change: Shown = serde_json::from_str(&event.data)?;
        writeln!(
            out,
            "{:<16} {:<10} {}/{} {}",
            event.id.as_deref().unwrap_or("-"),
            change.operation,
            change.collection.as_deref().unwrap_or("-"),
            change.document_id.as_deref().unwrap_or("-"),
            change.after.or(change.before).map_or("", RawValue::get),
        )?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_as_they_came() {
        let data = r#"{"operation":"DELETE","collection":"a\"b","document_id":null,"before":{"n":12.50},"after":null}"#;
        let change: Shown = serde_json::from_str(data).unwrap();
        assert_eq!(change.collection.as_deref(), Some("a\"b"));
        assert_eq!(
            change.after.or(change.before).map(RawValue::get),
            Some(r#"{"n":12.50}"#)
        );
    }
}

//! `springhead promote` and `springhead standby …`: what an administrator asks of nodes, over HTTP.

use serde_json::{Value, json};

use super::http_client::{Target, request};
use super::status::print_line;
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct PromoteArgs {
    /// The standby [default: the local one]
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
    /// Also a standby whose log was damaged, and that has not caught up since: what it lacks is lost
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    tls: TlsArgs,
    /// The answer as it came
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Node {
    /// The primary [default: the local one]
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// The answer as it came
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum StandbyCommand {
    /// Lists the standbys of a primary and how far behind they are
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        node: Node,
    },
    /// Shows what a node is among the others: its role, its epoch, who leads, who voted for whom
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        node: Node,
    },
    /// Hands over to a standby: nothing is lost, writes pause for a moment
    #[command(after_help = EXIT_CODES)]
    Switchover {
        /// The standby's name; needed if there are several
        to: Option<String>,
        #[command(flatten)]
        node: Node,
    },
    /// Has a new, empty witness take the place of one that is lost
    #[command(after_help = EXIT_CODES)]
    EnrolWitness {
        /// Also where the node does not lead; only on the node that led last
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        node: Node,
    },
    /// Forgets a standby that is gone for good, and the log that is kept for it
    #[command(after_help = EXIT_CODES)]
    Drop {
        name: String,
        #[command(flatten)]
        node: Node,
    },
}

/// Makes a standby the primary.
///
/// # Errors
/// [`CliError`].
pub async fn promote(args: PromoteArgs) -> Result<(), CliError> {
    let node = Node {
        url: args.url,
        tls: args.tls,
        json: args.json,
    };
    let answer = ask(
        &node,
        "POST",
        "/v1/promote",
        Some(json!({ "force": args.force })),
    )
    .await?;
    tell(node.json, &answer, |answer| {
        format!(
            "promoted: epoch {} (number {}) begins after LSN {}",
            text(&answer["epoch"]),
            answer["epoch_number"],
            answer["fork_lsn"]
        )
    })
}

/// Runs one of the commands.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: StandbyCommand) -> Result<(), CliError> {
    match command {
        StandbyCommand::List { node } => {
            let answer = ask(&node, "GET", "/v1/standbys", None).await?;
            tell(node.json, &answer, table)
        }
        StandbyCommand::Status { node } => {
            let answer = ask(&node, "GET", "/v1/status", None).await?;
            tell(node.json, &standing(&answer), summary)
        }
        StandbyCommand::Switchover { to, node } => {
            let body = match to {
                Some(to) => json!({ "to": to }),
                None => json!({}),
            };
            let path = "/v1/standbys/switchover";
            let answer = ask(&node, "POST", path, Some(body)).await?;
            tell(node.json, &answer, |answer| {
                format!(
                    "handed over: the primary is at {}",
                    text(&answer["primary"])
                )
            })
        }
        StandbyCommand::EnrolWitness { force, node } => {
            let (path, body) = ("/v1/standbys/witness", json!({ "force": force }));
            let answer = ask(&node, "POST", path, Some(body)).await?;
            tell(node.json, &answer, |answer| {
                format!(
                    "the witness at {} serves this cluster",
                    text(&answer["address"])
                )
            })
        }
        StandbyCommand::Drop { name, node } => {
            let path = format!("/v1/standbys/{}", super::http_client::encode(&name));
            let answer = ask(&node, "DELETE", &path, None).await?;
            tell(node.json, &answer, |_| format!("forgot standby {name}"))
        }
    }
}

async fn ask(
    node: &Node,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, CliError> {
    let target = Target::read(node.url.as_deref(), &node.tls)?;
    let unreachable = |error| CliError::Unreachable(format!("{}: {error}", target.host_port));
    let body = body.map(|body| body.to_string());
    let answer = request(&target, method, path, &[], body.as_deref())
        .await
        .map_err(unreachable)?;
    let status = answer.status;
    let text = answer.body().await.map_err(unreachable)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| CliError::Failed(format!("the answer is no JSON: {error}")))?;
    if status != 200 {
        let message = value["error"]["message"].as_str().unwrap_or(&text);
        let hint = value["error"]["hint"]
            .as_str()
            .map_or_else(String::new, |hint| format!("\n  hint: {hint}"));
        return Err(CliError::Failed(format!("{message}{hint}")));
    }
    Ok(value)
}

fn tell(
    json: bool,
    answer: &Value,
    for_people: impl FnOnce(&Value) -> String,
) -> Result<(), CliError> {
    if json {
        return print_line(&answer.to_string());
    }
    print_line(&for_people(answer))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What of a node's status is about the others.
fn standing(status: &Value) -> Value {
    let replication = &status["replication"];
    json!({
        "name": replication["name"],
        "role": status["role"],
        "epoch": status["epoch"],
        "epoch_number": replication["epoch_number"],
        "upstream": replication["upstream"],
        "doubt": replication["doubt"],
        "failover": replication["failover"],
    })
}

/// One line per thing that is known.
fn summary(standing: &Value) -> String {
    let failover = &standing["failover"];
    let witness = &failover["witness"];
    let leader = match &failover["leader"] {
        Value::Null if failover.is_object() => "nobody".to_owned(),
        leader => text(leader),
    };
    let witness_state = match (witness["connected"].as_bool(), &witness["problem"]) {
        (Some(true), _) => "takes part".to_owned(),
        (Some(false), Value::Null) => "not asked yet".to_owned(),
        (Some(false), problem) => text(problem),
        (None, _) => String::new(),
    };
    let epoch = format!(
        "{} (number {})",
        text(&standing["epoch"]),
        text(&standing["epoch_number"])
    );
    let promotion = if failover.is_object() {
        "by votes"
    } else {
        "by command (no witness is set)"
    };
    let lines = [
        ("node", text(&standing["name"])),
        ("role", text(&standing["role"])),
        ("epoch", epoch),
        ("follows", text(&standing["upstream"]["primary"])),
        ("doubt", text(&standing["doubt"])),
        ("promotion", promotion.to_owned()),
        ("state", text(&failover["state"])),
        ("leader", leader),
        ("in sync", list(&failover["in_sync"])),
        ("promised epoch", text(&failover["promised"])),
        ("voted for", text(&failover["voted_for"])),
        ("problem", text(&failover["problem"])),
        ("witness", text(&witness["address"])),
        ("witness state", witness_state),
        ("witness promised", text(&witness["promised"])),
        ("witness voted for", text(&witness["voted_for"])),
        ("witness in sync", list(&witness["in_sync"])),
    ];
    let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines
        .map(|(name, value)| format!("{name:18}{value}"))
        .collect();
    lines.join("\n")
}

/// Names with commas.
fn list(names: &Value) -> String {
    let names = names.as_array().cloned().unwrap_or_default();
    names.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// One line per standby.
fn table(answer: &Value) -> String {
    const COLUMNS: [(&str, &str); 11] = [
        ("name", "name"),
        ("address", "address"),
        ("state", "state"),
        ("mode", "mode"),
        ("priority", "priority"),
        ("in_sync", "in sync"),
        ("flushed_lsn", "flushed"),
        ("applied_lsn", "applied"),
        ("lag_changes", "lag (changes)"),
        ("lag_bytes", "(bytes)"),
        ("lag_ms", "(ms)"),
    ];
    let standbys = answer["standbys"].as_array().cloned().unwrap_or_default();
    if standbys.is_empty() {
        return "there are no standbys".to_owned();
    }
    let mut lines: Vec<Vec<String>> =
        vec![COLUMNS.iter().map(|(_, head)| (*head).to_owned()).collect()];
    for standby in &standbys {
        lines.push(
            COLUMNS
                .iter()
                .map(|(key, _)| text(&standby[*key]))
                .collect(),
        );
    }
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let shown: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    shown.join("\n")
}

//! `springhead dlq`: what becomes of rejected mutations, in SQL.

use super::sql::{execute, execute_counted, target};
use super::tenant::Server;
use super::{CliError, EXIT_CODES};

#[derive(Debug, clap::Subcommand)]
pub enum DlqCommand {
    /// Lists dead letters, the unresolved ones unless told otherwise
    #[command(after_help = EXIT_CODES)]
    List {
        /// Of this collection alone
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// The resolved ones
        #[arg(long, conflicts_with = "all")]
        resolved: bool,
        /// Resolved or not
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Those with higher numbers
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        server: Server,
        /// One JSON object per dead letter
        #[arg(long)]
        json: bool,
    },
    /// Shows one, whole
    Show {
        id: u64,
        #[command(flatten)]
        server: Server,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tries one again, with the rights of its author
    Retry {
        id: u64,
        /// In place of its own, as JSON: [{"in":"todos","id":[7],"set":{"title":"milk"}}]
        #[arg(long, value_name = "JSON")]
        operations: Option<String>,
        #[command(flatten)]
        server: Server,
        #[arg(long)]
        json: bool,
    },
    /// Says that one has been dealt with
    Resolve {
        id: u64,
        /// How
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        #[command(flatten)]
        server: Server,
        #[arg(long)]
        json: bool,
    },
    /// Tries all unresolved ones of a collection again
    Redrive {
        collection: String,
        /// At most so many per second
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        rate: u32,
        #[command(flatten)]
        server: Server,
        #[arg(long)]
        json: bool,
    },
    /// Shows the policies, or sets one; what is left out gets the configuration's default
    Policy(PolicyArgs),
}

#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// Whose policy is to be set
    collection: Option<String>,
    /// Seconds that an entry waits from its first rejection
    #[arg(long, value_name = "SECONDS", requires = "collection")]
    ttl: Option<u64>,
    /// What happens then: drop, escalate or force_apply_lww
    #[arg(long, requires = "collection")]
    action: Option<String>,
    /// Unresolved entries at a time
    #[arg(long, value_name = "NUMBER", requires = "collection")]
    max_entries: Option<u64>,
    /// What happens to the next: escalate or reject_push
    #[arg(long, requires = "collection")]
    on_full: Option<String>,
    /// For this violation alone, such as unique
    #[arg(long, value_name = "WORD", requires = "collection")]
    violation: Option<String>,
    #[command(flatten)]
    server: Server,
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: DlqCommand) -> Result<(), CliError> {
    let (server, sql, json) = match command {
        DlqCommand::List {
            collection,
            resolved,
            all,
            limit,
            after,
            server,
            json,
        } => {
            let mut conditions = vec![format!("id > {after}")];
            conditions.extend(collection.map(|name| format!("collection = {}", text(&name))));
            if !all {
                conditions.push(if resolved { "resolved" } else { "NOT resolved" }.to_owned());
            }
            let sql = format!(
                "SELECT id, created_at, username, collection, document_id, \
                 attempts -> 0 ->> 'outcome' AS violation, retry_count, resolved, expires_at \
                 FROM springhead.dead_letters WHERE {} ORDER BY id LIMIT {limit}",
                conditions.join(" AND ")
            );
            (server, sql, json)
        }
        DlqCommand::Show { id, server, json } => {
            let sql = format!("SELECT * FROM springhead.dead_letters WHERE id = {id}");
            let target = target(server.url.as_deref(), &server.tls)?;
            return match execute_counted(&target, &sql, json).await? {
                0 => Err(CliError::Failed(format!("there is no dead letter {id}"))),
                _ => Ok(()),
            };
        }
        DlqCommand::Retry {
            id,
            operations,
            server,
            json,
        } => {
            let operations = operations.map_or_else(|| "NULL".to_owned(), |json| text(&json));
            let sql = format!("CALL springhead.retry_dead_letter({id}, {operations})");
            (server, sql, json)
        }
        DlqCommand::Resolve {
            id,
            note,
            server,
            json,
        } => {
            let note = note.map_or_else(|| "NULL".to_owned(), |note| text(&note));
            let sql = format!("CALL springhead.resolve_dead_letter({id}, {note})");
            (server, sql, json)
        }
        DlqCommand::Redrive {
            collection,
            rate,
            server,
            json,
        } => {
            let sql = format!(
                "CALL springhead.redrive_dead_letters({}, {rate})",
                text(&collection)
            );
            (server, sql, json)
        }
        DlqCommand::Policy(args) => {
            let sql = args.sql();
            (args.server, sql, args.json)
        }
    };
    execute(&target(server.url.as_deref(), &server.tls)?, &sql, json).await
}

impl PolicyArgs {
    fn sql(&self) -> String {
        const LIST: &str =
            "SELECT * FROM springhead.dead_letter_policies ORDER BY collection, violation";
        let Some(collection) = &self.collection else {
            return LIST.to_owned();
        };
        let mut arguments = vec![text(collection)];
        let numbers = [("ttl_s", self.ttl), ("max_entries", self.max_entries)];
        for (name, value) in numbers {
            arguments.extend(value.map(|value| format!("{name} => {value}")));
        }
        let words = [
            ("action", &self.action),
            ("on_full", &self.on_full),
            ("violation", &self.violation),
        ];
        for (name, value) in words {
            arguments.extend(
                value
                    .as_ref()
                    .map(|value| format!("{name} => {}", text(value))),
            );
        }
        if arguments.len() == 1 {
            return format!(
                "SELECT * FROM springhead.dead_letter_policies WHERE collection = {} ORDER BY violation",
                arguments[0]
            );
        }
        format!(
            "CALL springhead.set_dead_letter_policy({})",
            arguments.join(", ")
        )
    }
}

/// A text as SQL has it.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

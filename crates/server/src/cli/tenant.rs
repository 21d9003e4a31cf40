//! `springhead tenant`: lists, creates and drops tenants, in SQL.

use super::sql::{execute, target};
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES};

#[derive(Debug, clap::Subcommand)]
pub enum TenantCommand {
    /// Lists the tenants
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        server: Server,
        /// One JSON object per tenant
        #[arg(long)]
        json: bool,
    },
    /// Creates a tenant
    #[command(after_help = EXIT_CODES)]
    Create {
        name: String,
        #[command(flatten)]
        server: Server,
        /// What was done as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Drops a tenant with all that is in it
    #[command(after_help = EXIT_CODES)]
    Drop {
        name: String,
        #[command(flatten)]
        server: Server,
        /// What was done as a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Server {
    /// The server [default: the local one]
    #[arg(long, value_name = "postgres://[USER@]HOST:PORT[?sslmode=MODE]")]
    pub url: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Runs one of them.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: TenantCommand) -> Result<(), CliError> {
    let (server, sql, json) = match command {
        TenantCommand::List { server, json } => (server, "SHOW tenants".to_owned(), json),
        TenantCommand::Create { name, server, json } => {
            (server, format!("CREATE DATABASE {}", quoted(&name)), json)
        }
        TenantCommand::Drop { name, server, json } => {
            (server, format!("DROP DATABASE {}", quoted(&name)), json)
        }
    };
    execute(&target(server.url.as_deref(), &server.tls)?, &sql, json).await
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

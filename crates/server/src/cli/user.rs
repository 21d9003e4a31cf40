//! `springhead user` and `springhead token`: who may log in, in SQL. Passwords are asked for or read
//! from standard input, never taken from the command line, where others on the machine could see
//! them; what is sent is a verifier.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use springhead_engine::access::scram::{ITERATIONS, SALT_BYTES, Verifier};

use super::sql::{execute, target};
use super::tenant::{Server, quoted};
use super::{CliError, EXIT_CODES};
use crate::config::SettingValue;

#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// Lists the users and roles
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        server: Server,
        /// One JSON object per role
        #[arg(long)]
        json: bool,
    },
    /// Creates a user; the password is asked for, or is the first line of standard input
    #[command(after_help = EXIT_CODES)]
    Create {
        name: String,
        /// May do everything
        #[arg(long)]
        superuser: bool,
        /// The one tenant that it may use
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        server: Server,
        /// What was done as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Gives a user another password
    #[command(after_help = EXIT_CODES)]
    Password {
        name: String,
        #[command(flatten)]
        server: Server,
        /// What was done as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Drops a user
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

#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Lists the tokens, without their secrets
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        server: Server,
        /// One JSON object per token
        #[arg(long)]
        json: bool,
    },
    /// Creates a token and prints it, once
    #[command(after_help = EXIT_CODES)]
    Create {
        /// What it is for
        name: String,
        /// The role that it stands for
        #[arg(long)]
        role: String,
        /// The one tenant that it is good for
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// It may only read
        #[arg(long)]
        read_only: bool,
        /// How long it is good, as in 30d
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        #[command(flatten)]
        server: Server,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Revokes a token, by its id
    #[command(after_help = EXIT_CODES)]
    Revoke {
        id: String,
        #[command(flatten)]
        server: Server,
        /// What was done as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the commands about users.
///
/// # Errors
/// [`CliError`].
pub async fn run_user(command: UserCommand) -> Result<(), CliError> {
    let (server, sql, json) = match command {
        UserCommand::List { server, json } => {
            const LIST: &str = "SELECT r.name, r.login, r.superuser, r.createdb, r.createrole, \
                r.verifier IS NOT NULL AS has_password, r.valid_until, r.tenant \
                FROM springhead.roles r ORDER BY r.name";
            (server, LIST.to_owned(), json)
        }
        UserCommand::Create {
            name,
            superuser,
            tenant,
            server,
            json,
        } => {
            let mut sql = format!(
                "CREATE USER {} PASSWORD '{}'",
                quoted(&name),
                new_verifier(&name)?
            );
            if superuser {
                sql.push_str(" SUPERUSER");
            }
            if let Some(tenant) = tenant {
                sql.push_str(&format!(" TENANT {}", quoted(&tenant)));
            }
            (server, sql, json)
        }
        UserCommand::Password { name, server, json } => {
            let sql = format!(
                "ALTER USER {} PASSWORD '{}'",
                quoted(&name),
                new_verifier(&name)?
            );
            (server, sql, json)
        }
        UserCommand::Drop { name, server, json } => {
            (server, format!("DROP USER {}", quoted(&name)), json)
        }
    };
    execute(&target(server.url.as_deref(), &server.tls)?, &sql, json).await
}

/// Runs one of the commands about tokens.
///
/// # Errors
/// [`CliError`].
pub async fn run_token(command: TokenCommand) -> Result<(), CliError> {
    let (server, sql, json) = match command {
        TokenCommand::List { server, json } => {
            const LIST: &str = "SELECT id, name, role, tenant, read_only, expires_at, revoked_at, \
                created_at, created_by FROM springhead.tokens ORDER BY created_at";
            (server, LIST.to_owned(), json)
        }
        TokenCommand::Create {
            name,
            role,
            tenant,
            read_only,
            expires,
            server,
            json,
        } => {
            let mut sql = format!("CREATE TOKEN {} FOR {}", quoted(&name), quoted(&role));
            if let Some(tenant) = tenant {
                sql.push_str(&format!(" TENANT {}", quoted(&tenant)));
            }
            if read_only {
                sql.push_str(" READ ONLY");
            }
            if let Some(expires) = expires {
                sql.push_str(&format!(" VALID UNTIL '{}'", end_of(&expires)?));
            }
            (server, sql, json)
        }
        TokenCommand::Revoke { id, server, json } => {
            (server, format!("DROP TOKEN {}", quoted(&id)), json)
        }
    };
    execute(&target(server.url.as_deref(), &server.tls)?, &sql, json).await
}

/// When a lifetime that begins now ends, as PostgreSQL's text.
fn end_of(lifetime: &str) -> Result<String, CliError> {
    let bad = |what: String| CliError::Usage(format!("--expires {lifetime}: {what}"));
    let lifetime_of = Duration::read(lifetime).map_err(bad)?;
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .map_err(|error| CliError::Failed(format!("the clock: {error}")))?;
    let end_us =
        i64::try_from((now + lifetime_of).as_micros()).map_err(|_| bad("too long".to_owned()))?;
    let mut text = Vec::new();
    springhead_sql::types::text::output_text(
        &springhead_sql::PgType::Timestamptz,
        springhead_proto::ValueRef::Integer(end_us),
        &mut text,
    );
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Asks for a new password and makes its verifier.
fn new_verifier(user: &str) -> Result<String, CliError> {
    let password = if std::io::stdin().is_terminal() {
        let password = ask(&format!("Password for {user}: "))?;
        if ask("Again: ")? != password {
            return Err(CliError::Usage("the two are not the same".to_owned()));
        }
        password
    } else {
        line()?
    };
    if password.is_empty() {
        return Err(CliError::Usage("the password is empty".to_owned()));
    }
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)
        .map_err(|error| CliError::Failed(format!("no random bytes: {error}")))?;
    Ok(Verifier::of_password(&password, &salt, ITERATIONS).text())
}

/// Asks on the terminal, without showing the answer.
///
/// # Errors
/// There is no terminal.
pub fn ask(question: &str) -> Result<String, CliError> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = std::io::stdin();
    let no_terminal = |error: rustix::io::Errno| CliError::Failed(format!("the terminal: {error}"));
    let before = tcgetattr(&terminal).map_err(no_terminal)?;
    let mut silent = before.clone();
    silent.local_modes &= !LocalModes::ECHO;
    eprint!("{question}");
    std::io::stderr().flush().map_err(CliError::Output)?;
    tcsetattr(&terminal, OptionalActions::Now, &silent).map_err(no_terminal)?;
    let answer = line();
    tcsetattr(&terminal, OptionalActions::Now, &before).map_err(no_terminal)?;
    eprintln!();
    answer
}

fn line() -> Result<String, CliError> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| CliError::Usage(format!("standard input: {error}")))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

//! `springhead device …`: a device from a shell, in a directory of its own. Each command opens the
//! device, does one thing and closes it; `sync` stays while it is told to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use springhead_device::{Answer, Device, DeviceError, Phase, Status, TokenSource};

use super::{CliError, EXIT_CODES};

#[derive(Debug, clap::Subcommand)]
pub enum DeviceCommand {
    /// Makes a device in a directory, and says who it is
    #[command(after_help = EXIT_CODES)]
    Init(Dir),
    /// Runs SQL on the device; what it does to the server's tables waits for the next sync
    #[command(after_help = EXIT_CODES)]
    Sql {
        #[command(flatten)]
        dir: Dir,
        /// The statement
        sql: String,
        /// Its parameters, as JSON
        params: Vec<String>,
    },
    /// Wants documents of a collection from now on
    #[command(after_help = EXIT_CODES)]
    Subscribe {
        #[command(flatten)]
        dir: Dir,
        /// A number of one's own; the same one again replaces the shape
        id: u32,
        collection: String,
        /// A condition, as after WHERE
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
    },
    /// Exchanges everything with a server
    #[command(after_help = EXIT_CODES)]
    Sync {
        #[command(flatten)]
        dir: Dir,
        #[arg(
            long,
            value_name = "ws[s]://HOST:PORT/sync",
            default_value = "ws://127.0.0.1:6480/sync"
        )]
        url: String,
        /// Stays connected until interrupted; SPRINGHEAD_TOKEN is the token, where one is needed
        #[arg(long)]
        follow: bool,
        /// Gives up after so long without an end
        #[arg(long, value_name = "MS", default_value_t = 60_000)]
        timeout_ms: u64,
    },
    /// Shows what has been written and has no verdict yet
    #[command(after_help = EXIT_CODES)]
    Pending(Dir),
    /// Shows what the server has rejected; acknowledges one, or writes it again with a fix
    #[command(after_help = EXIT_CODES)]
    Rejections {
        #[command(flatten)]
        dir: Dir,
        /// Forgets this one
        #[arg(long, value_name = "ID", conflicts_with = "fix")]
        acknowledge: Option<i64>,
        /// Writes this one again with the first of its hint's fixes
        #[arg(long, value_name = "ID")]
        fix: Option<i64>,
    },
    /// Shows how far the device has come
    #[command(after_help = EXIT_CODES)]
    Status(Dir),
}

#[derive(Debug, clap::Args)]
pub struct Dir {
    /// The device's directory
    #[arg(long = "dir", value_name = "DIR", default_value = "springhead-device")]
    dir: PathBuf,
    /// JSON in place of a table
    #[arg(long)]
    json: bool,
}

impl From<DeviceError> for CliError {
    fn from(error: DeviceError) -> CliError {
        match error {
            DeviceError::BadUrl { .. } => CliError::Usage(error.to_string()),
            other => CliError::Failed(other.to_string()),
        }
    }
}

/// Does one of them.
///
/// # Errors
/// [`CliError`].
pub async fn run(command: DeviceCommand) -> Result<(), CliError> {
    match command {
        DeviceCommand::Init(dir) | DeviceCommand::Status(dir) => {
            let device = Device::open(&dir.dir).await?;
            show_status(&device, dir.json).await
        }
        DeviceCommand::Sql { dir, sql, params } => {
            let device = Device::open(&dir.dir).await?;
            let params: Vec<Value> = params
                .into_iter()
                .map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)))
                .collect();
            show_answer(&device.sql(&sql, &params).await?, dir.json);
            Ok(())
        }
        DeviceCommand::Subscribe {
            dir,
            id,
            collection,
            condition,
        } => {
            let device = Device::open(&dir.dir).await?;
            device
                .subscribe(id, &collection, condition.as_deref(), &[])
                .await?;
            show_status(&device, dir.json).await
        }
        DeviceCommand::Sync {
            dir,
            url,
            follow,
            timeout_ms,
        } => {
            let device = Device::open(&dir.dir).await?;
            sync(&device, &url, follow, timeout_ms).await?;
            show_status(&device, dir.json).await
        }
        DeviceCommand::Pending(dir) => {
            let device = Device::open(&dir.dir).await?;
            let sql = "SELECT id, seq, state, mutation, made_at, note \
                       FROM springhead.device_pending ORDER BY id";
            show_answer(&device.sql(sql, &[]).await?, dir.json);
            Ok(())
        }
        DeviceCommand::Rejections {
            dir,
            acknowledge,
            fix,
        } => {
            let device = Device::open(&dir.dir).await?;
            if let Some(id) = acknowledge {
                device.acknowledge(id).await?;
            }
            if let Some(id) = fix {
                device.apply_fix(id, 0).await?;
            }
            let sql = "SELECT id, violation, hint, mutation, dead_letter_id, rejected_at \
                       FROM springhead.device_rejections ORDER BY id";
            show_answer(&device.sql(sql, &[]).await?, dir.json);
            Ok(())
        }
    }
}

/// Until the image has what the server had and nothing is pending, or told to stop.
async fn sync(device: &Device, url: &str, follow: bool, timeout_ms: u64) -> Result<(), CliError> {
    // Not an argument: those are seen by whoever lists processes.
    let source: Option<TokenSource> = std::env::var("SPRINGHEAD_TOKEN")
        .ok()
        .map(|token| Arc::new(move || Some(token.clone())) as TokenSource);
    device.connect(url, source)?;
    let mut status = device.status();
    let done = async {
        loop {
            let now: Status = status.borrow_and_update().clone();
            // Of a device that somebody else has: they go on, and this command says so.
            let is_over = now.phase == Phase::Stopped || now.phase == Phase::Elsewhere && !follow;
            if is_over {
                return Err(CliError::Failed(now.error.unwrap_or_default()));
            }
            if now.phase == Phase::Live && now.pending == 0 && !follow {
                return Ok(());
            }
            if status.changed().await.is_err() {
                return Ok(());
            }
        }
    };
    if follow {
        tokio::select! {
            ended = done => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    } else {
        match tokio::time::timeout(Duration::from_millis(timeout_ms), done).await {
            Ok(ended) => ended,
            Err(_) => {
                let error = device.status().borrow().error.clone();
                Err(CliError::Unreachable(error.unwrap_or_else(|| {
                    format!("not done after {timeout_ms} ms")
                })))
            }
        }
    }
}

async fn show_status(device: &Device, as_json: bool) -> Result<(), CliError> {
    let status = device.status().borrow().clone();
    let shapes: Vec<Value> = device
        .shapes()
        .await?
        .into_iter()
        .map(|state| {
            json!({
                "id": state.shape.id.0,
                "collection": state.shape.collection,
                "where": state.shape.condition,
                "complete": state.complete,
                "ended": state.ended,
            })
        })
        .collect();
    let cursor = status.cursor.map(|cursor| cursor.to_string());
    if as_json {
        let value = json!({
            "cursor": cursor,
            "pending": status.pending,
            "rejections": status.rejections,
            "complete": status.complete,
            "shapes": shapes,
        });
        println!("{value}");
        return Ok(());
    }
    println!("cursor      {}", cursor.as_deref().unwrap_or("nothing yet"));
    println!("pending     {}", status.pending);
    println!("rejections  {}", status.rejections);
    for shape in shapes {
        println!("shape       {shape}");
    }
    Ok(())
}

fn show_answer(answer: &Answer, as_json: bool) {
    if as_json {
        let value = json!({
            "columns": answer.columns,
            "rows": answer.rows,
            "command": answer.command,
        });
        println!("{value}");
        return;
    }
    if answer.columns.is_empty() {
        println!("{}", answer.command);
        return;
    }
    println!("{}", answer.columns.join("\t"));
    for row in &answer.rows {
        let texts: Vec<String> = row
            .iter()
            .map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect();
        println!("{}", texts.join("\t"));
    }
}

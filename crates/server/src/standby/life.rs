//! What a node does before its engine opens: finds out what it is, and does to its data what cannot
//! be done while it serves (a base backup, a log cut back to a fork). `node` calls [`prepare`] at
//! each start and whenever [`Replication::restart`](super::Replication::restart) was asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use springhead_engine::EngineError;
use springhead_engine::role::NodeRole;
use springhead_engine::undo::{Undone, undo_past};
use springhead_log::disk::RealDisk;
use springhead_log::{Log, LogError, SystemClock, failpoint};
use springhead_proto::Lsn;

use super::files::{RoleFile, StoredRole};
use super::install::InstallError;
use super::{Options, Replication, Restart, install, peers, receiver};
use crate::config::Config;
use crate::node::{NodeError, SystemEntropy};
use crate::vote;

/// Opens the log in a directory, which goes at least to the LSN given; to follow another if so asked.
/// May block.
pub type OpenLog =
    dyn Fn(&Path, &Config, Lsn, bool) -> Result<Arc<dyn Log>, LogError> + Send + Sync;

/// Between attempts to take a base backup.
const RETRY: Duration = Duration::from_secs(1);
/// How long a standby that starts waits for its primary before it serves what it has.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// What the node begins as.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// What the engine opens as. A primary that may have been replaced opens as a standby of nobody
    /// and takes writes once it has looked around.
    pub role: NodeRole,
    /// Whether the log follows another.
    pub follows: bool,
    pub role_file: RoleFile,
}

/// Brings the data directory into the state that the engine can open, which may take as long as the
/// primary is away.
///
/// # Errors
/// What the disk says, or that the log cannot be replicated.
pub async fn prepare(
    config: &Config,
    options: &Options,
    asked: Option<Restart>,
    open_log: &OpenLog,
) -> Result<Beginning, NodeError> {
    let system = |what| move |error| NodeError::System { what, error };
    install::finish(&options.data_dir).map_err(system("finish a base backup"))?;
    let stored = RoleFile::read(&options.data_dir).map_err(system("read role.json"))?;
    if let Some(asked) = asked {
        obey(config, options, asked, open_log).await?;
    }
    let has_log = options.data_dir.join("log").join("epochs").exists();
    let configured = Some(config.standby_of.clone()).filter(|primary| !primary.is_empty());
    let primary = match &stored {
        Some(file) if file.role == StoredRole::Primary => {
            if let Some(primary) = &configured {
                tracing::warn!(
                    %primary,
                    "this node has been promoted and stays the primary, whatever standby_of says, unless a newer one answers"
                );
            }
            None
        }
        Some(file) => file.primary.clone().or(configured),
        None => configured,
    };
    let Some(primary) = primary else {
        install::forget(&options.data_dir).map_err(system("forget a base backup"))?;
        return Ok(Beginning {
            // With others about, it asks them first.
            role: if has_log && knows_others(options, &stored) {
                NodeRole::Standby { primary: None }
            } else {
                NodeRole::Primary
            },
            follows: false,
            role_file: stored.unwrap_or(RoleFile {
                role: StoredRole::Primary,
                primary: None,
                promised: 0,
                doubt: None,
            }),
        });
    };
    if !has_log {
        take_base(config, options, &primary, "it has no log yet", open_log).await;
    }
    let role_file = RoleFile {
        role: StoredRole::Standby,
        primary: Some(primary.clone()),
        promised: stored.as_ref().map_or(0, |file| file.promised),
        doubt: stored.and_then(|file| file.doubt),
    };
    role_file
        .write(&options.data_dir)
        .map_err(system("write role.json"))?;
    Ok(Beginning {
        role: NodeRole::Standby {
            primary: Some(primary.into()),
        },
        follows: true,
        role_file,
    })
}

/// Does what a node asked for that was running.
async fn obey(
    config: &Config,
    options: &Options,
    asked: Restart,
    open_log: &OpenLog,
) -> Result<(), NodeError> {
    match asked {
        Restart::Follow { .. } => {}
        Restart::Truncate {
            primary,
            after,
            why,
        } => {
            tracing::warn!(after = after.0, %why, "cutting the log back to where it left its primary's");
            let done = {
                let (config, dir) = (config.clone(), options.data_dir.join("log"));
                tokio::task::block_in_place(|| cut(&config, &dir, after, open_log))?
            };
            if let Undone::NeedsBaseBackup(why) = done {
                take_base(config, options, &primary, &why, open_log).await;
            }
        }
        Restart::BaseBackup { primary, why } => {
            take_base(config, options, &primary, &why, open_log).await;
        }
    }
    Ok(())
}

/// Opens the log. What of a follower's is in doubt then is in `role.json` before anything is cut off
/// that shows it: written down beforehand, and taken back where there was nothing.
///
/// # Errors
/// What the disk or the log says.
pub fn open_log(
    config: &Config,
    beginning: &mut Beginning,
    log_dir: &Path,
    known_durable: Lsn,
    open: &OpenLog,
) -> Result<Arc<dyn Log>, NodeError> {
    if !beginning.follows {
        return Ok(open(log_dir, config, known_durable, false)?);
    }
    let file = &mut beginning.role_file;
    let write = |file: &RoleFile| {
        let written = file.write(&config.data_dir);
        written.map_err(|error| NodeError::System {
            what: "write role.json",
            error,
        })
    };
    let was_in_doubt = file.doubt.is_some();
    if !was_in_doubt {
        file.doubt = Some("it ended while its log was being opened".to_owned());
        write(file)?;
    }
    let log = open(log_dir, config, known_durable, true)?;
    match log.raw().and_then(|raw| raw.doubt()) {
        Some(doubt) => {
            tracing::error!(
                %doubt,
                "this standby may lack what it has acknowledged; it is not promoted before it has caught up with a primary"
            );
            file.doubt = Some(doubt);
            write(file)?;
        }
        None if !was_in_doubt => {
            file.doubt = None;
            write(file)?;
        }
        None => {}
    }
    Ok(log)
}

fn knows_others(options: &Options, stored: &Option<RoleFile>) -> bool {
    options.votes
        || !options.peers.is_empty()
        || options.data_dir.join("standbys.json").exists()
        || stored.is_some()
}

/// Takes a base backup, however long the primary is away.
async fn take_base(
    config: &Config,
    options: &Options,
    primary: &str,
    why: &str,
    open_log: &OpenLog,
) {
    tracing::warn!(primary, why, "taking a base backup");
    let mut last = String::new();
    // What has come is read and checked once.
    let mut received = None;
    loop {
        let known = match received.take() {
            Some(known) => Ok(known),
            None => tokio::task::block_in_place(|| install::received(&options.data_dir)),
        };
        let taken = match known {
            Ok(known) => {
                let known = received.insert(known);
                Box::pin(install::take(config, options, primary, known, open_log)).await
            }
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok(()) => return,
            Err(error) => {
                if matches!(error, InstallError::Malformed(_)) {
                    // Whatever it is, it would not fit the next time either.
                    received = None;
                    if let Err(error) = install::forget(&options.data_dir) {
                        tracing::warn!(%error, "what was received stays");
                    }
                }
                let problem = error.to_string();
                if problem != last {
                    tracing::warn!(primary, %problem, "the base backup is tried again");
                    last = problem;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Undoes what the state has past `after`, then cuts the log there; what is cut off is kept.
fn cut(
    config: &Config,
    log_dir: &Path,
    after: Lsn,
    open_log: &OpenLog,
) -> Result<Undone, NodeError> {
    let known_durable = springhead_engine::state::highest_applied(&config.data_dir)?;
    let log = open_log(log_dir, config, known_durable, false)?;
    let undone = undo_past(
        &config.engine(),
        &*log,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        after,
    );
    log.close();
    drop(log);
    let undone = match undone {
        Err(EngineError::Log(error)) => needs_copy(error)?,
        undone => undone?,
    };
    failpoint::hit("standby.undone");
    let cut = match springhead_log::segment::truncate(&RealDisk, log_dir, after) {
        Ok(cut) => cut,
        Err(error) => return Ok(needs_copy(error)?),
    };
    if let Some(cut) = cut {
        tracing::warn!(
            after = cut.after.0,
            last = cut.last.0,
            kept_in = %cut.kept_in.display(),
            "what this node had past the fork is not part of the history any more; it is kept there"
        );
    }
    match &undone {
        Undone::Done { tenants, changes } => {
            tracing::info!(tenants, changes, "the state is back at the fork");
        }
        Undone::NeedsBaseBackup(why) => tracing::warn!(%why, "the state cannot be taken back"),
    }
    Ok(undone)
}

/// A log that does not go back to the fork, or cannot be cut there, is made anew.
fn needs_copy(error: LogError) -> Result<Undone, LogError> {
    match error {
        LogError::Trimmed { .. } | LogError::Future { .. } | LogError::WithinCommit { .. } => {
            Ok(Undone::NeedsBaseBackup(error.to_string()))
        }
        other => Err(other),
    }
}

/// Begins what goes on while the node serves: following, or being asked about. Returns before the
/// node's listeners are served, once a standby has heard from its primary or waited long enough.
///
/// # Errors
/// What the log says.
pub async fn begin(replication: &Arc<Replication>, beginning: &Beginning) -> Result<(), NodeError> {
    let engine = &replication.engine;
    if beginning.follows {
        let primary = beginning.role_file.primary.clone().unwrap_or_default();
        let running = receiver::start(replication, primary)?;
        *replication.following.lock() = Some(running);
        let mut upstream = replication.upstream.subscribe();
        let heard = async {
            tokio::select! {
                _ = upstream.wait_for(|state| state.connected) => {}
                _ = replication.restart_asked() => {}
            }
        };
        // What it has is better than nothing.
        let _ = tokio::time::timeout(FIRST_WORD, heard).await;
        return Ok(());
    }
    if let Some(voting) = &replication.voting {
        vote::keep::begin(replication, voting).await;
        return Ok(());
    }
    if beginning.role != NodeRole::Primary {
        peers::look_around(replication).await;
        if replication.restart.borrow().is_some() {
            return Ok(());
        }
    }
    replication.synchrony.begin(engine.log().tail().durable);
    if beginning.role != NodeRole::Primary {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.lead())
            .await
            .map_err(|error| NodeError::System {
                what: "begin to take writes",
                error: std::io::Error::other(error.to_string()),
            })??;
    }
    Ok(())
}

/// What goes on beside it all while the node serves: looks for newer primaries, for standbys that
/// went or came back, and writes slots down.
pub async fn keep(replication: Arc<Replication>) {
    const INTERVAL: Duration = Duration::from_millis(100);
    const STORE_EVERY: u32 = 100;
    let watching = tokio::spawn(peers::watch(Arc::clone(&replication)));
    let _ends = AbortOnDrop(watching);
    let voting = replication.voting.clone();
    let _votes = voting.map(|voting| {
        AbortOnDrop(tokio::spawn(vote::keep::keep(
            Arc::clone(&replication),
            voting,
        )))
    });
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut count = 0_u32;
    loop {
        ticks.tick().await;
        count += 1;
        if count.is_multiple_of(STORE_EVERY) {
            let storing = Arc::clone(&replication);
            let stored = tokio::task::spawn_blocking(move || {
                storing.giving.expire(storing.options.base_keep);
                storing.slots.store_or_warn();
            });
            let _ = stored.await;
        }
        if !replication.is_primary() {
            continue;
        }
        let end = replication.engine.log().tail().durable;
        if let Some(alone) = replication.synchrony.look(end) {
            mark(&replication, alone, end).await;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says, also in the log itself (springhead.audit), that commits stop or begin to wait for standbys.
async fn mark(replication: &Replication, alone: bool, end: Lsn) {
    let action = if alone {
        tracing::error!(
            lsn = end.0,
            "no standby in time: commits are answered without one from here on (async_after_ms)"
        );
        "asynchronous"
    } else {
        tracing::warn!(lsn = end.0, "commits wait for standbys again");
        "synchronous"
    };
    let event = springhead_engine::access::AuditEvent {
        actor: "springhead".to_owned(),
        action,
        object: Some(replication.synchrony.names().to_string()),
        outcome: "ok",
        detail: Some(format!("from LSN {end} on")),
        ..Default::default()
    };
    if let Err(error) = replication.engine.audit(vec![event]).await {
        tracing::error!(%error, "the change of mode is not in the audit");
    }
}

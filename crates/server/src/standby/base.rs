//! A base backup for a standby, on the side that gives it: every tenant's state, copied while the
//! node serves, and the log from before the first copy to after the last.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use springhead_engine::EngineError;
use springhead_log::{LogError, RawItem, RawLimit};
use springhead_proto::{Lsn, SYSTEM_TENANT, TenantId};
use tokio::io::AsyncReadExt;

use super::Replication;
use super::channel::{ChannelError, Outgoing};
use super::slots::{State, TooMany};
use super::wire::{Identity, ToStandby, Verdict};

/// Bytes of a file per message.
const CHUNK: usize = 1 << 20;

/// Why a base backup came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Gives a base backup to the node that has asked for one.
///
/// # Errors
/// [`BaseError`]; the standby starts over.
pub async fn send(
    replication: &Arc<Replication>,
    standby: &Identity,
    mut out: Outgoing<ToStandby>,
) -> Result<(), BaseError> {
    out.send(&ToStandby::Verdict(Verdict::Stream)).await?;
    let log = Arc::clone(replication.engine.log());
    // From here on the log is kept for this standby, until it streams itself or passes its cap.
    let start = log.tail().durable;
    let connection =
        replication
            .slots
            .connect(&standby.name, &standby.address, State::Backup, start)?;
    let begun = std::time::Instant::now();
    tracing::info!(standby = %standby.name, start = start.0, "a base backup begins");
    let sent = Box::pin(send_all(replication, start, &mut out)).await;
    replication.slots.disconnect(&standby.name, connection);
    let (bytes, end) = sent?;
    tracing::info!(
        standby = %standby.name,
        bytes,
        end = end.0,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "a base backup is complete"
    );
    Ok(())
}

async fn send_all(
    replication: &Arc<Replication>,
    start: Lsn,
    out: &mut Outgoing<ToStandby>,
) -> Result<(u64, Lsn), BaseError> {
    let data_dir = &replication.options.data_dir;
    let scratch = Scratch::new(data_dir)?;
    // The system's tenant first: whichever tenant it does not list yet is made by the log.
    let mut tenants = vec![SYSTEM_TENANT];
    copy(replication, SYSTEM_TENANT, &scratch.0).await?;
    tenants.extend(replication.engine.tenants().into_iter().map(|t| t.id));
    out.send(&ToStandby::BaseBegin {
        epochs: replication.engine.log().epochs(),
        start,
        files: u32::try_from(tenants.len()).unwrap_or(u32::MAX),
        bytes: state_bytes(data_dir, &tenants),
    })
    .await?;
    let mut bytes = 0;
    for tenant in tenants {
        let file = scratch.file(tenant);
        if tenant != SYSTEM_TENANT && !copy(replication, tenant, &scratch.0).await? {
            // Dropped meanwhile: the log says so, too.
            continue;
        }
        let path = format!("tenants/{:010}/state.db", tenant.0);
        bytes += send_file(&file, &path, out).await?;
        std::fs::remove_file(&file)?;
    }
    let key = data_dir.join("secret.key");
    if key.exists() {
        // So that cookies and tickets are good on whichever node is the primary.
        bytes += send_file(&key, "secret.key", out).await?;
    }
    // Every copy was taken before this: each is whole with the log up to here.
    let end = replication.engine.log().tail().durable;
    out.send(&ToStandby::BaseEnd { end }).await?;
    bytes += send_log(replication, start, end, out).await?;
    Ok((bytes, end))
}

/// Copies one tenant's state; false if it is no more.
async fn copy(
    replication: &Arc<Replication>,
    tenant: TenantId,
    to: &Path,
) -> Result<bool, BaseError> {
    let engine = replication.engine.clone();
    let file = to.join(tenant.0.to_string());
    let copied = tokio::task::spawn_blocking(move || engine.copy_state(tenant, &file)).await;
    match copied.map_err(std::io::Error::other)? {
        Ok(_) => Ok(true),
        Err(_) if replication.engine.tenant_name(tenant).is_none() && tenant != SYSTEM_TENANT => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn send_file(
    file: &Path,
    path: &str,
    out: &mut Outgoing<ToStandby>,
) -> Result<u64, BaseError> {
    let mut file = tokio::fs::File::open(file).await?;
    let mut offset = 0;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file)
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .await?;
        let length = chunk.len() as u64;
        let is_last = chunk.len() < CHUNK;
        out.send(&ToStandby::BaseFile {
            path: path.to_owned(),
            offset,
            bytes: Bytes::from(chunk),
            is_last,
        })
        .await?;
        offset += length;
        if is_last {
            return Ok(offset);
        }
    }
}

/// The log from the beginning of the segment that holds `start` to behind `end`.
async fn send_log(
    replication: &Arc<Replication>,
    start: Lsn,
    end: Lsn,
    out: &mut Outgoing<ToStandby>,
) -> Result<u64, BaseError> {
    let mut reader = tokio::task::block_in_place(|| {
        let log = replication.raw();
        let from = log.segment_start(start.next())?;
        log.raw_reader(from, RawLimit::Durable)
    })?;
    let mut bytes = 0;
    let mut has_segment = false;
    loop {
        let mut items = Vec::new();
        let reached = tokio::task::block_in_place(|| reader.read(&mut items, CHUNK as u64))?;
        let epoch = replication.engine.log().tail().epoch;
        let is_empty = items.is_empty();
        for item in items {
            bytes += item.bytes().len() as u64;
            let message = match item {
                RawItem::Segment {
                    header,
                    epoch: record,
                    ..
                } => {
                    has_segment = true;
                    ToStandby::Segment {
                        header,
                        epoch: record,
                    }
                }
                RawItem::Frames { from, bytes, .. } => ToStandby::Frames { epoch, from, bytes },
            };
            out.send(&message).await?;
        }
        if has_segment && (reached.lsn >= end || is_empty) {
            break;
        }
    }
    // The end of it, told by what is announced.
    let tail = replication.engine.log().tail();
    out.send(&ToStandby::Announce {
        epoch: tail.epoch,
        durable: end,
        timestamp_ms: tail.timestamp_ms.0,
        leads: 0,
        sent_ms: 0,
    })
    .await?;
    Ok(bytes)
}

fn state_bytes(data_dir: &Path, tenants: &[TenantId]) -> u64 {
    tenants
        .iter()
        .map(|tenant| {
            let path = data_dir.join(format!("tenants/{:010}/state.db", tenant.0));
            std::fs::metadata(path).map_or(0, |metadata| metadata.len())
        })
        .sum()
}

/// A directory for copies, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(data_dir: &Path) -> std::io::Result<Scratch> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
        let dir = data_dir
            .join("tmp")
            .join(format!("base-{:016x}", u64::from_le_bytes(random)));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    fn file(&self, tenant: TenantId) -> PathBuf {
        self.0.join(tenant.0.to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is emptied at the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

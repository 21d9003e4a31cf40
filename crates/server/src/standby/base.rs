//! A base backup for a standby, on the side that gives it: every tenant's state, copied while the
//! node serves, and the log from before the first copy to after the last. What was cut goes on: the standby
//! says what it has, the log is held for it, and the copy that was being sent stays for a while
//! ([`super::copies`]).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use springhead_engine::EngineError;
use springhead_log::{EpochRecord, LogError, RawItem, RawLimit, RawPosition};
use springhead_proto::{Lsn, SYSTEM_TENANT, TenantId};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::Replication;
use super::channel::{ChannelError, Incoming, Outgoing};
use super::copies::{Copied, Copies};
use super::received::measure_first;
use super::slots::{State, TooMany};
use super::wire::{BaseHave, Identity, ToPrimary, ToStandby, Verdict, Wanted};

/// Bytes of a file per message: what is under way when a connection breaks comes again.
const CHUNK: usize = 256 << 10;
/// Log that is read in one go.
const LOG_BYTES: u64 = 1 << 20;

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
    #[error("the standby has come again, and goes on on another connection")]
    Again,
}

/// Gives a base backup to the node that has asked for one, or goes on with one that was cut.
///
/// # Errors
/// [`BaseError`]; the standby comes again, with what it has.
pub async fn send(
    replication: &Arc<Replication>,
    standby: &Identity,
    mut out: Outgoing<ToStandby>,
    mut incoming: Incoming<ToPrimary>,
) -> Result<(), BaseError> {
    out.send(&ToStandby::Verdict(Verdict::Stream)).await?;
    let ToPrimary::BaseHave(have) = incoming.receive().await? else {
        return Err(ChannelError::Unexpected("not what it has").into());
    };
    let turn = replication.giving.begin(&standby.name).await;
    let (have, connection) = hold_log(replication, standby, have)?;
    let kept = replication.giving.take(&standby.name);
    let copies = match kept.filter(|copies| have.copies == copies.id) {
        Some(copies) => copies,
        None => Copies::new(&replication.options.data_dir)?,
    };
    let begun = std::time::Instant::now();
    let goes_on = have.history_id != 0;
    tracing::info!(standby = %standby.name, start = have.start.0, goes_on, "a base backup begins");
    let mut giving = Giver {
        replication,
        copies,
        have,
        out,
    };
    let sent = tokio::select! {
        sent = Box::pin(giving.give()) => sent,
        () = turn.is_over() => Err(BaseError::Again),
    };
    replication.slots.disconnect(&standby.name, connection);
    let (bytes, end) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            replication.giving.keep(&standby.name, giving.copies);
            return Err(error);
        }
    };
    tracing::info!(
        standby = %standby.name,
        bytes,
        end = end.0,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "a base backup is complete"
    );
    Ok(())
}

/// From here on the log is kept for this standby, until it streams itself or passes its cap: from where the
/// backup that was cut began, if all of it is there still and of the same history, or from its end. What of
/// what it has can be gone on with, and the number of its connection.
fn hold_log(
    replication: &Replication,
    standby: &Identity,
    have: BaseHave,
) -> Result<(BaseHave, u64), BaseError> {
    let log = replication.raw();
    let hold = |start| {
        let slots = &replication.slots;
        slots.connect(&standby.name, &standby.address, State::Backup, start)
    };
    if is_of(&log.identity().epochs, &have) {
        let connection = hold(have.start)?;
        if tokio::task::block_in_place(|| log.segment_start(have.start.next())).is_ok() {
            return Ok((have, connection));
        }
    }
    let nothing = BaseHave {
        start: log.identity().durable,
        ..BaseHave::default()
    };
    let connection = hold(nothing.start)?;
    Ok((nothing, connection))
}

/// Whether everything in the files is of the history with these epochs.
fn is_of(epochs: &[EpochRecord], have: &BaseHave) -> bool {
    let place = epochs
        .iter()
        .position(|record| record.history_id == have.history_id);
    place.is_some_and(|place| {
        let next = epochs.get(place + 1);
        next.is_none_or(|next| have.through <= next.fork_lsn)
    })
}

/// One base backup on its way to a standby.
struct Giver<'a> {
    replication: &'a Arc<Replication>,
    copies: Copies,
    have: BaseHave,
    out: Outgoing<ToStandby>,
}

impl Giver<'_> {
    /// The bytes that were sent, and the LSN up to which there is log.
    async fn give(&mut self) -> Result<(u64, Lsn), BaseError> {
        let data_dir = &self.replication.options.data_dir;
        // The system's tenant first: whichever tenant it does not list yet is made by the log.
        if !self.has(&path_of(SYSTEM_TENANT)) {
            self.copy(SYSTEM_TENANT).await?;
        }
        let mut tenants = vec![SYSTEM_TENANT];
        tenants.extend(self.replication.engine.tenants().into_iter().map(|t| t.id));
        self.out
            .send(&ToStandby::BaseBegin {
                epochs: self.replication.engine.log().epochs(),
                start: self.have.start,
                files: u32::try_from(tenants.len()).unwrap_or(u32::MAX),
                bytes: state_bytes(data_dir, &tenants),
                copies: self.copies.id,
                goes_on: self.have.history_id != 0,
            })
            .await?;
        let mut bytes = 0;
        for tenant in tenants {
            bytes += self.give_tenant(tenant).await?;
        }
        let key = data_dir.join("secret.key");
        if key.exists() {
            // So that cookies and tickets are good on whichever node is the primary.
            bytes += send_file(&key, "secret.key", 0, Lsn::ZERO, &mut self.out).await?;
        }
        // Every copy was taken before this: each is whole with the log up to here.
        let end = self.replication.engine.log().tail().durable;
        let from = match self.have.log {
            Some(at) => {
                let held = tokio::task::block_in_place(|| self.replication.raw().holds(at))?;
                held.then_some(at)
            }
            None => None,
        };
        let goes_on = from.is_some();
        self.out.send(&ToStandby::BaseEnd { end, goes_on }).await?;
        bytes += send_log(self.replication, self.have.start, from, end, &mut self.out).await?;
        Ok((bytes, end))
    }

    fn has(&self, path: &str) -> bool {
        self.have.files.iter().any(|file| file == path)
    }

    /// The bytes that were sent: none for a tenant that the standby has, or that has been dropped.
    async fn give_tenant(&mut self, tenant: TenantId) -> Result<u64, BaseError> {
        let path = path_of(tenant);
        if self.has(&path) || !self.copy(tenant).await? {
            return Ok(0);
        }
        let Some(Copied { file, through, .. }) = self.copies.copied.clone() else {
            return Ok(0);
        };
        let offset = self.offset_in(&path, &file)?;
        let end = send_file(&file, &path, offset, through, &mut self.out).await?;
        self.copies.copied = None;
        std::fs::remove_file(&file)?;
        Ok(end - offset)
    }

    /// Where the standby's part of a file ends, if it is the beginning of this one.
    fn offset_in(&self, path: &str, file: &Path) -> std::io::Result<u64> {
        let part = self.have.part.as_ref().filter(|part| part.path == path);
        let Some(part) = part else { return Ok(0) };
        let file = std::fs::File::open(file)?;
        let first = tokio::task::block_in_place(|| measure_first(file, part.bytes))?;
        Ok(if first == (part.bytes, part.crc) {
            part.bytes
        } else {
            0
        })
    }

    /// Copies one tenant's state, unless that is what was being sent; false if it is no more.
    async fn copy(&mut self, tenant: TenantId) -> Result<bool, BaseError> {
        let copied = self.copies.copied.as_ref();
        if copied.is_some_and(|copied| copied.tenant == tenant) {
            return Ok(true);
        }
        self.copies.copied = None;
        let file = self.copies.next_file();
        let (engine, to) = (self.replication.engine.clone(), file.clone());
        let mut copying = tokio::task::spawn_blocking(move || engine.copy_state(tenant, &to));
        let heartbeat = self.replication.options.heartbeat;
        let copied = loop {
            tokio::select! {
                copied = &mut copying => break copied,
                // A large one takes longer than the other side waits for a word.
                () = tokio::time::sleep(heartbeat) => self.out.send(&ToStandby::BaseWait).await?,
            }
        };
        match copied.map_err(std::io::Error::other)? {
            Ok(_) => {
                self.copies.copied = Some(Copied {
                    tenant,
                    file,
                    through: self.replication.engine.log().tail().durable,
                });
                Ok(true)
            }
            // Dropped meanwhile: the log says so, too.
            Err(_)
                if self.replication.engine.tenant_name(tenant).is_none()
                    && tenant != SYSTEM_TENANT =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn path_of(tenant: TenantId) -> String {
    format!("tenants/{:010}/state.db", tenant.0)
}

/// Sends a file from `offset` on; its length.
async fn send_file(
    file: &Path,
    path: &str,
    mut offset: u64,
    through: Lsn,
    out: &mut Outgoing<ToStandby>,
) -> Result<u64, BaseError> {
    let mut file = tokio::fs::File::open(file).await?;
    file.seek(std::io::SeekFrom::Start(offset)).await?;
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
            through,
        })
        .await?;
        offset += length;
        if is_last {
            return Ok(offset);
        }
    }
}

/// The log from `from`, or from the beginning of the segment that holds `start`, to behind `end`.
async fn send_log(
    replication: &Arc<Replication>,
    start: Lsn,
    from: Option<RawPosition>,
    end: Lsn,
    out: &mut Outgoing<ToStandby>,
) -> Result<u64, BaseError> {
    let mut reader = tokio::task::block_in_place(|| {
        let log = replication.raw();
        let start = match from {
            Some(from) => from,
            None => log.segment_start(start.next())?,
        };
        log.raw_reader(start, RawLimit::Durable)
    })?;
    let mut bytes = 0;
    let mut has_segment = from.is_some();
    loop {
        let mut items = Vec::new();
        let reached = tokio::task::block_in_place(|| reader.read(&mut items, LOG_BYTES))?;
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
        wanted: Wanted::default(),
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

#[cfg(test)]
mod tests {
    use springhead_proto::Epoch;

    use super::*;

    #[test]
    fn g5_files_go_on_only_in_a_history_that_they_are_of() {
        let record = |number: u32, fork: u64| EpochRecord {
            epoch: Epoch(number),
            number,
            history_id: u128::from(number),
            fork_lsn: Lsn(fork),
        };
        let epochs = [record(1, 0), record(2, 50), record(3, 90)];
        for (history_id, through, expected) in [
            (0, 0, false),
            (3, 1000, true),
            (2, 90, true),
            (2, 91, false),
            (1, 50, true),
            (1, 60, false),
            (4, 0, false),
        ] {
            let have = BaseHave {
                history_id,
                through: Lsn(through),
                ..BaseHave::default()
            };
            assert_eq!(is_of(&epochs, &have), expected, "{history_id} {through}");
        }
    }
}

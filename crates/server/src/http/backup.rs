//! `GET /v1/backup`: a backup of the whole node as a tar archive, for superusers.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::StatusCode;
use springhead_proto::ErrorCode;
use tokio::sync::mpsc;

use super::body::{Body, CutShort, Response};
use super::error::HttpError;
use super::request::Request;
use crate::backup::{BackupError, Piece, source, tar};

/// Pieces that wait for the socket, 256 KiB each.
const PIECES: usize = 4;

/// Backups that are being made.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of the backups at a time.
struct Turn;

impl Turn {
    fn take(max: usize) -> Option<Turn> {
        if RUNNING.fetch_add(1, Ordering::AcqRel) < max {
            return Some(Turn);
        }
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sends a backup. It is cut short if it fails, so that nobody takes it for whole.
///
/// # Errors
/// 42501 for others than superusers, 53300 beside too many others.
pub async fn send(request: Request) -> Result<Response, HttpError> {
    request.params.finish(&[])?;
    let node = &request.app.node;
    if !node.engine.identify(&request.principal)?.superuser {
        return Err(HttpError::new(
            ErrorCode::InsufficientPrivilege,
            "must be superuser to take a backup",
        ));
    }
    let turn = Turn::take(node.config.max_backups).ok_or_else(|| {
        HttpError::new(
            ErrorCode::TooManyConnections,
            "other backups are being made; try again when they are done",
        )
    })?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let (engine, pin_cap_bytes) = (node.engine.clone(), node.config.backup_pin_cap_bytes.0);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let made = source::produce(&engine, pin_cap_bytes, &mut |piece| {
            sender
                .blocking_send(Ok(piece))
                .map_err(|_| BackupError::Gone)
        });
        match made {
            Ok(manifest) => tracing::info!(end_lsn = manifest.end_lsn, "a backup was sent"),
            Err(error) => {
                tracing::warn!(%error, "a backup was not finished");
                // If nobody listens any more, that is why.
                let _ = sender.blocking_send(Err(CutShort));
            }
        }
    });
    let body = Body::produced(move |output| archive(receiver, output));
    let answer = http::Response::builder()
        .status(StatusCode::OK)
        .header(http::header::CONTENT_TYPE, "application/x-tar")
        .header(http::header::CACHE_CONTROL, "no-store")
        .body(body);
    answer.map_err(|error| HttpError::new(ErrorCode::Internal, error.to_string()))
}

async fn archive(
    mut pieces: mpsc::Receiver<Result<Piece, CutShort>>,
    output: super::body::Output,
) -> Result<(), CutShort> {
    let mut padding = 0;
    let mut manifest = false;
    while let Some(piece) = pieces.recv().await {
        match piece? {
            Piece::File { path, bytes } => {
                let mut block = vec![0; padding];
                block.extend_from_slice(&tar::header(&path, bytes, 0));
                padding = tar::padding(bytes);
                manifest = path == crate::backup::MANIFEST_NAME;
                output.send(block).await;
            }
            Piece::Data(bytes) => output.send(bytes).await,
        }
    }
    // The producer ends without a word only if it panicked.
    if !manifest {
        return Err(CutShort);
    }
    output.send(Bytes::from(vec![0; padding])).await;
    output.send(Bytes::from_static(&tar::END)).await;
    Ok(())
}

//! The engine in this process: a small log, one tenant, no sockets (docs/adr/0010-device-engine.md).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use springhead_engine::{Engine, EngineConfig, Entropy};
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, SystemClock};

use crate::DeviceError;

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has random bytes");
    }
}

/// 128 random bits.
pub(crate) fn random() -> u128 {
    let mut bytes = [0; 16];
    SystemEntropy.fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

/// An open directory: locked, so that no other process has it.
pub(crate) struct Opened {
    pub engine: Engine,
    pub lock: File,
}

/// Opens a device's directory, and makes it if it is not there. Blocks.
///
/// # Errors
/// [`DeviceError`]: another process has it, or its files are damaged.
pub(crate) fn open(dir: &Path) -> Result<Opened, DeviceError> {
    let io = |path: PathBuf| {
        move |error| DeviceError::Io {
            path: path.display().to_string(),
            error,
        }
    };
    std::fs::create_dir_all(dir).map_err(io(dir.to_owned()))?;
    let path = dir.join("LOCK");
    let lock = File::create(&path).map_err(io(path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| DeviceError::InUse {
            path: dir.display().to_string(),
        },
    )?;
    const MIB: usize = 1 << 20;
    let log = SegmentLog::open(
        &dir.join("log"),
        SegmentConfig {
            segment_bytes: 4 << 20,
            retain_bytes: 8 << 20,
            retain_ms: 60 * 60 * 1000,
            reserve_bytes: 16 << 20,
            spare_segments: 1,
            ..SegmentConfig::default()
        },
        Arc::new(SystemClock),
    )?;
    let config = EngineConfig {
        device: true,
        worker_threads: 2,
        readers_per_tenant: 2,
        open_tenants: 1,
        tail_memory_bytes: MIB,
        cache_bytes: 4 * MIB,
        ..EngineConfig::new(dir)
    };
    let log: Arc<dyn Log> = Arc::new(log);
    let engine = Engine::open(config, log, Arc::new(SystemClock), Arc::new(SystemEntropy))?;
    Ok(Opened { engine, lock })
}

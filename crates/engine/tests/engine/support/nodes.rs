//! Nodes made of other nodes: standbys, what a log alone adds up to, what a crash or a cut leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use springhead_engine::{EngineConfig, EngineError};
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentConfig, SegmentLog, begin_copy, truncate};
use springhead_log::{Log, LogError, ManualClock, RawItem, RawLimit, RawLog};
use springhead_proto::Lsn;

use super::{Node, Setup};

impl Node {
    /// As [`Node::on_disk`]; all but the smallest commits are runs of frames.
    pub fn in_pieces(change: impl FnOnce(&mut EngineConfig)) -> Node {
        let segments = SegmentConfig {
            segment_bytes: 64 << 10,
            large_commit_bytes: 300,
            batch_bytes: 16 << 10,
            reserve_bytes: 0,
            spare_segments: 1,
            background: false,
            ..SegmentConfig::default()
        };
        Node::new(Some(segments), u64::MAX, change)
    }

    /// Opens this node's state over the log in memory of `other`.
    pub fn on_log_of(self, other: &Node) -> Result<Node, EngineError> {
        let Node { engine, setup, .. } = self;
        drop(engine);
        setup.open(Arc::clone(&other.log.inner))
    }

    /// A standby's engine over this one's log in memory: it has nothing yet but what the log says.
    pub fn standby(&self) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = self.setup.config.clone();
        config.data_dir = dir.path().to_owned();
        config.role = springhead_engine::role::NodeRole::Standby {
            primary: Some("http://primary:6480".into()),
        };
        let setup = Setup {
            config,
            segments: None,
            retain_bytes: u64::MAX,
            clock: Arc::clone(&self.clock),
            dir,
        };
        setup.open(Arc::clone(&self.log.inner)).unwrap()
    }

    /// Its states as they are now.
    pub fn keep(&self) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        copy_tenants(&self.config().data_dir, dir.path());
        Kept {
            lsn: self.log.tail().durable,
            dir,
        }
    }

    /// Another engine over this one's log in memory, from nothing but the log.
    pub fn replayed_elsewhere(&self) -> Node {
        self.elsewhere(None)
    }

    /// As [`Node::replayed_elsewhere`], from older states.
    pub fn replayed_from(&self, kept: &Kept) -> Node {
        self.elsewhere(Some(kept))
    }

    fn elsewhere(&self, kept: Option<&Kept>) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = self.setup.config.clone();
        config.data_dir = dir.path().to_owned();
        if let Some(kept) = kept {
            kept.give(dir.path());
        }
        let setup = Setup {
            config,
            segments: None,
            retain_bytes: u64::MAX,
            clock: Arc::clone(&self.clock),
            dir,
        };
        setup.open(Arc::clone(&self.log.inner)).unwrap()
    }

    /// A standby with a log of its own on disk, which is as far as this one's.
    pub fn standby_on_disk(&self) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = self.setup.config.clone();
        config.data_dir = dir.path().to_owned();
        let segments = self.setup.segments.clone().expect("this one is on disk");
        let raw = self.log.raw().unwrap();
        let start = raw.segment_start(self.log.earliest()).unwrap();
        let mut items = Vec::new();
        let mut reader = raw.raw_reader(start, RawLimit::Durable).unwrap();
        reader.read(&mut items, 1).unwrap();
        let Some(RawItem::Segment { header, .. }) = items.first() else {
            panic!("a segment begins with its header")
        };
        let (epochs, log_dir) = (raw.identity().epochs, config.data_dir.join("log"));
        begin_copy(&RealDisk, &log_dir, segments.segment_bytes, &epochs, header).unwrap();
        let standby = Stopped(Setup {
            config,
            segments: Some(segments),
            retain_bytes: u64::MAX,
            clock: Arc::clone(&self.clock),
            dir,
        });
        self.stream_to(&*standby.open_log(true));
        standby.start(true).unwrap()
    }

    /// Gives `standby` all that this one's log has, and shows it there.
    pub fn stream(&self, standby: &Node) {
        self.stream_to(standby.log.raw().unwrap());
    }

    fn stream_to(&self, to: &dyn RawLog) {
        let from = self.log.raw().unwrap();
        let mut at = to.identity().written;
        assert!(
            from.holds(at).unwrap(),
            "its log is a beginning of this one's"
        );
        let mut reader = from.raw_reader(at, RawLimit::Durable).unwrap();
        loop {
            let mut items = Vec::new();
            let next = reader.read(&mut items, 1 << 20).unwrap();
            for item in items {
                match &item {
                    RawItem::Segment { header, epoch, .. } => to.follow_segment(header, epoch),
                    RawItem::Frames { from, bytes, .. } => to.follow_frames(*from, bytes),
                }
                .unwrap();
            }
            if next == at {
                break;
            }
            at = next;
        }
        to.follow_flush().unwrap();
        let durable = self.log.tail().durable;
        assert_eq!(to.announce(durable).unwrap(), durable);
    }

    /// Ends the engine without a shutdown, and leaves what it had on disk. Everything that has the engine
    /// must be gone.
    pub fn stop(self) -> Stopped {
        let Node {
            engine, log, setup, ..
        } = self;
        drop(engine);
        while Arc::strong_count(&log) > 1 {
            std::thread::yield_now();
        }
        drop(log);
        Stopped(setup)
    }
}

/// States as they were once, to be brought up to any later LSN.
pub struct Kept {
    pub lsn: Lsn,
    dir: tempfile::TempDir,
}

impl Kept {
    /// Puts a copy of them into a data directory.
    pub fn give(&self, data_dir: &Path) {
        copy_tenants(self.dir.path(), data_dir);
    }
}

/// A node that does not run.
pub struct Stopped(Setup);

impl Stopped {
    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    pub fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.0.clock)
    }

    pub fn log_dir(&self) -> PathBuf {
        self.0.config.data_dir.join("log")
    }

    /// Its log, as a standby's or as one that is written.
    pub fn open_log(&self, follows: bool) -> Arc<SegmentLog> {
        let segments = SegmentConfig {
            known_durable: springhead_engine::state::highest_applied(&self.0.config.data_dir)
                .unwrap(),
            follows,
            ..self.0.segments.clone().expect("it is on disk")
        };
        Arc::new(SegmentLog::open(&self.log_dir(), segments, self.clock()).unwrap())
    }

    /// A node that has a copy of this one's log, and no state.
    pub fn log_alone(&self) -> Stopped {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = self.0.config.clone();
        config.data_dir = dir.path().to_owned();
        let copy = Stopped(Setup {
            config,
            dir,
            ..self.0.clone()
        });
        std::fs::create_dir_all(copy.log_dir()).unwrap();
        for entry in std::fs::read_dir(self.log_dir()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.log_dir().join(entry.file_name())).unwrap();
            }
        }
        copy
    }

    /// As [`Stopped::log_alone`], cut back to the last commit that ends at or before `target`.
    pub fn log_up_to(&self, target: Lsn) -> Stopped {
        let copy = self.log_alone();
        let cut = |after| truncate(&RealDisk, &copy.log_dir(), after);
        match cut(target) {
            Err(LogError::WithinCommit { first, .. }) => cut(first.previous()).unwrap(),
            done => done.unwrap(),
        };
        copy
    }

    /// As [`Stopped::log_alone`], where nothing of `segment` from `offset` on has reached the disk.
    pub fn log_torn(&self, segment: &str, offset: u64) -> Stopped {
        let copy = self.log_alone();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(copy.log_dir().join(segment))
            .unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(offset).unwrap();
        file.set_len(length).unwrap();
        copy
    }

    /// Runs it, as a standby or as a primary.
    pub fn start(mut self, follows: bool) -> Result<Node, EngineError> {
        self.0.config.role = match follows {
            true => springhead_engine::role::NodeRole::Standby {
                primary: Some("http://primary:6480".into()),
            },
            false => springhead_engine::role::NodeRole::Primary,
        };
        let log = self.open_log(follows);
        self.0.open(log)
    }
}

/// Everything but the index of the WAL, which SQLite makes anew.
fn copy_tenants(from: &Path, to: &Path) {
    for tenant in std::fs::read_dir(from.join("tenants")).unwrap() {
        let tenant = tenant.unwrap();
        let into = to.join("tenants").join(tenant.file_name());
        std::fs::create_dir_all(&into).unwrap();
        for file in std::fs::read_dir(tenant.path()).unwrap() {
            let file = file.unwrap();
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), into.join(file.file_name())).unwrap();
            }
        }
    }
}

//! Both logs keep the contract.

use std::sync::Arc;

use springhead_log::conformance::{Made, Setup};
use springhead_log::memory::MemoryLog;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_proto::Epoch;

mod memory {
    use super::*;

    fn make(setup: &Setup) -> Made {
        let log = MemoryLog::with(Epoch(7), setup.clock.clone(), setup.retain_bytes);
        Made {
            log: Arc::new(log),
            keep: Box::new(()),
        }
    }

    springhead_log::conformance_tests!(make);
}

fn segment_log(setup: &Setup, change: impl FnOnce(&mut SegmentConfig)) -> Made {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = SegmentConfig {
        segment_bytes: 1 << 20,
        large_commit_bytes: 1 << 17,
        retain_bytes: setup.retain_bytes,
        reserve_bytes: 0,
        ..SegmentConfig::default()
    };
    change(&mut config);
    let log = SegmentLog::open(dir.path(), config, setup.clock.clone()).expect("opened");
    Made {
        log: Arc::new(log),
        keep: Box::new(dir),
    }
}

mod segment {
    use super::*;

    fn make(setup: &Setup) -> Made {
        segment_log(setup, |_| {})
    }

    springhead_log::conformance_tests!(make);
}

mod segment_small_without_background {
    use super::*;

    fn make(setup: &Setup) -> Made {
        segment_log(setup, |config| {
            config.segment_bytes = 64 << 10;
            config.large_commit_bytes = 8 << 10;
            config.background = false;
        })
    }

    springhead_log::conformance_tests!(make);
}

mod segment_compressed {
    use super::*;

    fn make(setup: &Setup) -> Made {
        segment_log(setup, |config| {
            config.segment_bytes = 256 << 10;
            config.compress_level = Some(1);
        })
    }

    springhead_log::conformance_tests!(make);
}

mod segment_with_commit_delay {
    use super::*;

    fn make(setup: &Setup) -> Made {
        segment_log(setup, |config| config.commit_delay_us = 300)
    }

    springhead_log::conformance_tests!(make);
}

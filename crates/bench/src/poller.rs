//! Waiting for many sockets on one thread, with timeouts finer than a millisecond.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::error::{Doing, Result};

/// A set of sockets to read.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing("making an epoll set")?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(1024),
        })
    }

    /// Watches `socket` for input, under the number `token`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, socket: impl AsFd, token: usize) -> Result<()> {
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(token as u64),
            epoll::EventFlags::IN,
        )
        .doing("watching a socket")
    }

    /// Waits for input, at most for `at_most`, and puts the tokens of those who have some into
    /// `ready`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, at_most: Duration, ready: &mut Vec<usize>) -> Result<()> {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        ready.clear();
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing("waiting for sockets"),
        }
        ready.extend(
            self.events
                .iter()
                .filter_map(|event| usize::try_from(event.data.u64()).ok()),
        );
        Ok(())
    }
}

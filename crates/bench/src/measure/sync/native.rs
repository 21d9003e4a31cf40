//! Devices as applications embed them: the engine of `springhead-device`, its files on the disk, its
//! own connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use springhead_device::{Device, Status};
use springhead_engine::live::{Entry, LiveEvent, LiveOptions, LiveRequest};
use springhead_proto::ValueRef;
use tokio::runtime::{Builder, Runtime};

use super::frames::broken;
use crate::error::{BenchError, Doing, Result};

/// How long anything of a device's may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A device and what it runs on.
pub struct Native {
    runtime: Runtime,
    pub device: Device,
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    broken(&error.to_string())
}

impl Native {
    /// A new device in a directory, or the one that is there.
    pub fn open(directory: &Path) -> Result<Native> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .doing("starting a device's threads")?;
        let device = runtime.block_on(Device::open(directory)).map_err(failed)?;
        Ok(Native { runtime, device })
    }

    pub fn subscribe(&self, collection: &str, condition: Option<&str>) -> Result<()> {
        let subscribed = self.device.subscribe(1, collection, condition, &[]);
        self.runtime.block_on(subscribed).map_err(failed)
    }

    pub fn connect(&self, address: SocketAddr) -> Result<()> {
        let _inside = self.runtime.enter();
        let url = format!("ws://{address}/sync");
        self.device.connect(&url, None).map_err(failed)
    }

    pub fn disconnect(&self) {
        let _inside = self.runtime.enter();
        self.device.disconnect();
    }

    pub fn sql(&self, sql: &str) -> Result<()> {
        let done = self.runtime.block_on(self.device.sql(sql, &[]));
        done.map(|_| ()).map_err(failed)
    }

    /// The number that a query of the device's own data gives.
    pub fn number(&self, sql: &str) -> Result<u64> {
        let answer = self.runtime.block_on(self.device.sql(sql, &[]));
        let answer = answer.map_err(failed)?;
        let value = answer.rows.first().and_then(|row| row.first());
        value
            .and_then(serde_json::Value::as_u64)
            .ok_or_else(|| broken("the device's query gave no number"))
    }

    /// Waits for a state of the device's.
    pub fn until(&self, what: &str, is_there: impl Fn(&Status) -> bool) -> Result<()> {
        let mut status = self.device.status();
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, status.wait_for(|status| is_there(status)))
                .await
                .map(|found| found.is_ok())
        });
        match waited {
            Ok(true) => Ok(()),
            Ok(false) => Err(broken("the device has closed")),
            Err(_) => Err(BenchError::TimedOut {
                what: what.to_owned(),
                seconds: PATIENCE.as_secs(),
            }),
        }
    }

    /// Asks again and again until a query of the device's own data gives `wanted`; how long it took.
    pub fn until_number(&self, sql: &str, wanted: u64) -> Result<Duration> {
        let begun = Instant::now();
        let mut status = self.device.status();
        while self.number(sql)? != wanted {
            if begun.elapsed() > PATIENCE {
                return Err(BenchError::TimedOut {
                    what: sql.to_owned(),
                    seconds: PATIENCE.as_secs(),
                });
            }
            // Whichever it was, the query is asked again.
            let _ = self.runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(50), status.changed()).await
            });
        }
        Ok(begun.elapsed())
    }

    /// Keeps a query of the device's own data, and gives the second column of each row that comes or
    /// changes to `each`, until it says that this was all.
    pub fn follow_numbers(&self, sql: &str, mut each: impl FnMut(i64) -> bool) -> Result<()> {
        let mut live = self.device.live();
        let request = LiveRequest {
            sql,
            params: &[],
            cursor: None,
            options: LiveOptions::default(),
        };
        self.runtime.block_on(async {
            let opened = live.open(self.device.principal(), &request).await;
            opened.map_err(failed)?;
            loop {
                let event = tokio::time::timeout(PATIENCE, live.next()).await;
                let delta = match event {
                    Ok(LiveEvent::Change { delta, .. }) => delta,
                    Ok(LiveEvent::Ended { .. }) => return Err(broken("a live query has ended")),
                    Ok(_) => continue,
                    Err(_) => return Err(broken("a live query is silent")),
                };
                for entry in &delta.entries {
                    if let Entry::Added { row, .. } | Entry::Changed { row, .. } = entry
                        && let Some(ValueRef::Integer(number)) = row.as_ref().get(1)
                        && each(number)
                    {
                        return Ok(());
                    }
                }
            }
        })
    }

    pub fn close(self) {
        self.runtime.block_on(self.device.close());
    }
}

/// Stands between devices and a server, and counts what the devices send.
pub struct Counter {
    pub address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Counter {
    /// For one connection.
    pub fn before(server: SocketAddr) -> Result<Counter> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing("listening for a device")?;
        let address = listener.local_addr().doing("a counter's address")?;
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        std::thread::spawn(move || {
            // An error ends the connection, which the device notices.
            let _ = forward(&listener, server, &counted);
        });
        Ok(Counter { address, sent })
    }

    pub fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn forward(listener: &TcpListener, server: SocketAddr, sent: &AtomicU64) -> std::io::Result<()> {
    let (mut device, _) = listener.accept()?;
    let mut upstream = TcpStream::connect(server)?;
    device.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut down_from, mut down_to) = (upstream.try_clone()?, device.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut down_from, &mut down_to);
        let _ = down_to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = device.read(&mut buffer)?;
        if count == 0 {
            return upstream.shutdown(Shutdown::Both);
        }
        sent.fetch_add(count as u64, Ordering::Relaxed);
        upstream.write_all(&buffer[..count])?;
    }
}

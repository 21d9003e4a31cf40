//! What the machine itself takes to tell many subscribers of a change: an event of the usual size to each
//! socket, one write after the other, by as many threads as there are cores; no server, no runtime,
//! nothing to decide. No server can be faster over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::error::{BenchError, Doing, Result};
use crate::load::{Delivered, Subscriber, read_subscribers};
use crate::measure::NOTE;
use crate::rig::pause;
use crate::stats::now_ns;

/// How long the last events may take to arrive.
const GRACE: Duration = Duration::from_secs(20);

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Tells `subscribers` sockets of `rate` changes per second for `seconds`; they are read as a server's
/// subscribers are, on one thread.
///
/// # Errors
/// The sockets'.
pub fn tell(subscribers: usize, rate: u64, seconds: u64) -> Result<Delivered> {
    let (mut written, mut read) = (Vec::new(), Vec::new());
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing("listening")?;
    let address = listener.local_addr().doing("asking for the address")?;
    for _ in 0..subscribers {
        let (theirs, ours) = connect(&listener, address)?;
        written.push(theirs);
        read.push(ours);
    }
    let (events, expected) = (rate * seconds, AtomicU64::new(u64::MAX));
    let start_ns = now_ns() + 50_000_000;
    let writers = thread::available_parallelism().map_or(1, usize::from);
    let share = subscribers.div_ceil(writers);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_subscribers(&mut read, 0, &expected, GRACE));
        let writers: Vec<_> = written
            .chunks_mut(share)
            .map(|sockets| scope.spawn(move || write_all(sockets, start_ns, rate, events)))
            .collect();
        let wrote = writers.into_iter().try_for_each(joined);
        expected.store(if wrote.is_ok() { events } else { 0 }, Ordering::Release);
        let delivered = joined(reader);
        wrote.and(delivered)
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| BenchError::Invalid("a thread panicked".to_owned()))?
}

/// Both ends of a connection: the one that is written to, and its subscriber.
fn connect(listener: &TcpListener, address: SocketAddr) -> Result<(TcpStream, Subscriber)> {
    thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let mut stream = listener.accept().doing("accepting")?.0;
            stream.set_nodelay(true).doing("setting TCP_NODELAY")?;
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).doing("reading a request")?;
            stream.write_all(HEAD).doing("answering")?;
            Ok(stream)
        });
        let subscriber = Subscriber::of_events(address)?;
        Ok((joined(accepted)?, subscriber))
    })
}

fn write_all(sockets: &mut [TcpStream], start_ns: u64, rate: u64, events: u64) -> Result<()> {
    for number in 0..events {
        let due_ns = start_ns + number * 1_000_000_000 / rate;
        pause(Duration::from_nanos(due_ns.saturating_sub(now_ns())));
        let chunk = chunk(number + 1, due_ns);
        for socket in &mut *sockets {
            socket.write_all(&chunk).doing("writing an event")?;
        }
    }
    Ok(())
}

/// As Springhead would write it.
fn chunk(lsn: u64, due_ns: u64) -> Vec<u8> {
    let event = format!(
        "id: {lsn}@9c1e04d7\nevent: insert\ndata: {{\"lsn\":{lsn},\"cursor\":\"{lsn}@9c1e04d7\",\
         \"timestamp_ms\":1718000000000,\"tenant_id\":1,\"collection\":\"events\",\
         \"operation\":\"INSERT\",\"document_id\":\"{lsn}\",\"before\":null,\
         \"after\":{{\"id\":{lsn},\"sent_ns\":{due_ns},\"note\":\"{NOTE}\"}},\
         \"tx\":{{\"lsn\":{lsn},\"index\":0,\"count\":1}},\"schema_version\":1}}\n\n"
    );
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_event_comes_to_every_subscriber() {
        let delivered = super::tell(3, 50, 1).unwrap();
        assert_eq!((delivered.latencies.len(), delivered.missing), (150, 0));
    }
}

//! A network that fails as it is told: passes bytes on, swallows or holds them in one direction or both,
//! damages, repeats or reorders some, or cuts every connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What happens to bytes in one direction.
#[derive(Default)]
pub struct Direction {
    /// Taken and thrown away.
    pub swallow: AtomicBool,
    /// Taken by nobody until it ends, and then late: what a network loses for a while, TCP sends again.
    pub hold: AtomicBool,
    /// Every so many pieces one bit is flipped; 0 for never.
    pub damage_every: AtomicU64,
    /// Every so many pieces one is sent twice; 0 for never.
    pub repeat_every: AtomicU64,
    /// Every so many pieces one is sent after the one behind it; 0 for never.
    pub reorder_every: AtomicU64,
    /// Every so many pieces the connection ends after half of one; 0 for never.
    pub cut_every: AtomicU64,
    /// That went through.
    pub bytes: AtomicU64,
    pieces: AtomicU64,
}

#[derive(Default)]
pub struct Network {
    /// From who connects to who is connected to.
    pub there: Direction,
    pub back: Direction,
    /// Connections that the network has ended by itself.
    pub ended: AtomicU64,
    cut: AtomicU64,
    closed: AtomicBool,
}

/// A proxy in front of one address.
pub struct Proxy {
    pub address: SocketAddr,
    pub network: Arc<Network>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(Network::default());
        let shared = Arc::clone(&network);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.closed.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(from), Ok(to)) = (stream, TcpStream::connect(target)) else {
                    continue;
                };
                let network = Arc::clone(&shared);
                std::thread::spawn(move || carry_both(&network, from, to));
            }
        });
        Proxy { address, network }
    }

    /// Ends every connection that there is.
    pub fn cut(&self) {
        self.network.cut.fetch_add(1, Ordering::AcqRel);
    }

    /// Nothing passes in either direction, and nobody is told.
    pub fn partition(&self, on: bool) {
        self.network.there.swallow.store(on, Ordering::Release);
        self.network.back.swallow.store(on, Ordering::Release);
        if !on {
            // What was swallowed is lost: no connection can go on.
            self.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.closed.store(true, Ordering::Release);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

fn carry_both(network: &Arc<Network>, from: TcpStream, to: TcpStream) {
    let (back_from, back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    let other = Arc::clone(network);
    let back = std::thread::spawn(move || carry(&other, &other.back, back_from, back_to));
    carry(network, &network.there, from, to);
    let _ = back.join();
}

fn carry(network: &Network, direction: &Direction, mut from: TcpStream, mut to: TcpStream) {
    let cut = network.cut.load(Ordering::Acquire);
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut buffer = vec![0; 16 << 10];
    let mut late = Vec::new();
    while network.cut.load(Ordering::Acquire) == cut {
        if direction.hold.load(Ordering::Acquire) {
            super::pause(2);
            continue;
        }
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        if direction.swallow.load(Ordering::Acquire) {
            continue;
        }
        if !direction.pass(&mut buffer[..length], &mut late, &mut to) {
            network.ended.fetch_add(1, Ordering::AcqRel);
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Direction {
    /// Sends a piece on with whatever is to happen to it; false if the connection is over.
    fn pass(&self, bytes: &mut [u8], late: &mut Vec<u8>, to: &mut TcpStream) -> bool {
        let piece = self.pieces.fetch_add(1, Ordering::AcqRel) + 1;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        let is_due = |every: &AtomicU64| {
            let every = every.load(Ordering::Acquire);
            every > 0 && piece.is_multiple_of(every)
        };
        if is_due(&self.damage_every) {
            bytes[bytes.len() / 2] ^= 1 << (piece % 8);
        }
        if is_due(&self.cut_every) {
            let _ = to.write_all(&bytes[..bytes.len() / 2]);
            return false;
        }
        if is_due(&self.reorder_every) && late.is_empty() {
            late.extend_from_slice(bytes);
            return true;
        }
        let times = 1 + usize::from(is_due(&self.repeat_every));
        let sent = (0..times).all(|_| to.write_all(bytes).is_ok());
        sent && to.write_all(&std::mem::take(late)).is_ok()
    }
}

//! A network that fails as it is told: passes bytes on, swallows them in one direction or both,
//! damages or repeats some, or cuts every connection.

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
    /// Every so many pieces one bit is flipped; 0 for never.
    pub damage_every: AtomicU64,
    /// Every so many pieces one is sent twice; 0 for never.
    pub repeat_every: AtomicU64,
    pieces: AtomicU64,
}

#[derive(Default)]
pub struct Network {
    /// From who connects to who is connected to.
    pub there: Direction,
    pub back: Direction,
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
    while network.cut.load(Ordering::Acquire) == cut {
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
        let piece = direction.pieces.fetch_add(1, Ordering::AcqRel) + 1;
        let is_due = |every: &AtomicU64| {
            let every = every.load(Ordering::Acquire);
            every > 0 && piece.is_multiple_of(every)
        };
        if is_due(&direction.damage_every) {
            buffer[length / 2] ^= 1 << (piece % 8);
        }
        let times = 1 + usize::from(is_due(&direction.repeat_every));
        if (0..times).any(|_| to.write_all(&buffer[..length]).is_err()) {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

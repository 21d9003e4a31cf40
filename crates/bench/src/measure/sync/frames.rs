//! A device that is nothing but frames on a socket: it costs the machine little, so that what is
//! measured is the server.

use std::net::TcpStream;

use springhead_proto::sync::{
    Acknowledge, CatalogHash, CatalogVersion, DeviceId, DeviceToServer, Generation, Handshake,
    HandshakeAnswer, Hlc, Mutation, MutationId, Operation, ProducerId, Push, Seq, ServerToDevice,
    Shape, Subscription, Verdict,
};
use springhead_proto::{Cursor, Lsn};
use tungstenite::{Message, WebSocket, client};

use crate::error::{BenchError, Doing, Result};
use crate::systems::Server;

pub struct Frames {
    socket: WebSocket<TcpStream>,
    producer: ProducerId,
    /// The seq of the next mutation.
    pub next: u64,
    /// Bytes of the frames that were sent.
    pub sent_bytes: u64,
}

pub fn broken(what: &str) -> BenchError {
    BenchError::Protocol {
        peer: "springhead".to_owned(),
        what: what.to_owned(),
    }
}

impl Frames {
    /// Connects as the device of a number, and is accepted.
    pub fn connect(server: &Server, number: u128, shapes: &[Shape]) -> Result<Frames> {
        let address = server.http()?;
        let stream = TcpStream::connect(address).doing("connecting a device")?;
        stream.set_nodelay(true).doing("TCP_NODELAY")?;
        let (socket, _) = client(format!("ws://{address}/sync"), stream)
            .map_err(|error| broken(&error.to_string()))?;
        let mut device = Frames {
            socket,
            producer: ProducerId(number),
            next: 1,
            sent_bytes: 0,
        };
        let shapes = shapes.iter().map(|shape| Subscription {
            shape: shape.clone(),
            complete: false,
            resume: None,
        });
        device.send(&DeviceToServer::Handshake(Handshake {
            protocol: 1,
            token: None,
            tenant: None,
            device: DeviceId(number),
            producer: device.producer,
            generation: Generation::FIRST,
            cursor: None,
            catalog_version: CatalogVersion(0),
            catalog_hash: CatalogHash::default(),
            settled: Seq::ZERO,
            shapes: shapes.collect(),
            client: "bench".to_owned(),
        }))?;
        match device.next_frame()? {
            ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(ack)) => {
                device.next = ack.next_seq.0;
                Ok(device)
            }
            other => Err(broken(&format!(
                "{other:?} in place of a handshake's answer"
            ))),
        }
    }

    fn send(&mut self, frame: &DeviceToServer) -> Result<()> {
        let bytes = frame.to_bytes();
        self.sent_bytes += bytes.len() as u64;
        let sent = self.socket.send(Message::Binary(bytes.into()));
        sent.map_err(|error| broken(&error.to_string()))
    }

    pub fn next_frame(&mut self) -> Result<ServerToDevice> {
        loop {
            let message = self.socket.read();
            match message.map_err(|error| broken(&error.to_string()))? {
                Message::Binary(bytes) => {
                    return ServerToDevice::from_bytes(&bytes, 16 << 20)
                        .map_err(|error| broken(&error.to_string()));
                }
                Message::Close(close) => return Err(broken(&format!("closed: {close:?}"))),
                _ => {}
            }
        }
    }

    /// Pushes a mutation of each operation.
    pub fn push(&mut self, operations: impl IntoIterator<Item = Operation>) -> Result<()> {
        let mutations: Vec<Mutation> = operations
            .into_iter()
            .zip(self.next..)
            .map(|(operation, seq)| Mutation {
                producer: self.producer,
                generation: Generation::FIRST,
                seq: Seq(seq),
                base: Cursor {
                    lsn: Lsn::ZERO,
                    epoch: None,
                },
                schema_version: CatalogVersion(0),
                after: Vec::new(),
                hlc: Some(Hlc::at_ms(1_800_000_000_000 + seq)),
                operations: vec![operation],
            })
            .collect();
        self.next += mutations.len() as u64;
        self.send(&DeviceToServer::Push(Push {
            producer: self.producer,
            generation: Generation::FIRST,
            mutations,
        }))
    }

    /// Says that every verdict up to `seq` is known, as devices do.
    pub fn settle(&mut self, seq: u64) -> Result<()> {
        let settled = MutationId {
            producer: self.producer,
            generation: Generation::FIRST,
            seq: Seq(seq),
        };
        self.send(&DeviceToServer::Acknowledge(Acknowledge {
            cursor: None,
            settled: vec![settled],
        }))
    }

    /// Waits for at least as many verdicts, all of which are to be good; how many came.
    pub fn verdicts(&mut self, count: u64) -> Result<u64> {
        let mut came = 0;
        while came < count {
            match self.next_frame()? {
                ServerToDevice::Ack(ack) => {
                    for (seq, verdict) in &ack.verdicts {
                        if !matches!(verdict, Verdict::Applied { .. }) {
                            return Err(broken(&format!("{seq}: {verdict:?}")));
                        }
                    }
                    came += ack.verdicts.len() as u64;
                }
                ServerToDevice::Reject(reject) => return Err(broken(&format!("{reject:?}"))),
                _ => {}
            }
        }
        Ok(came)
    }

    /// Waits for the end of a snapshot; how many rows it had.
    pub fn snapshot(&mut self) -> Result<u64> {
        let mut rows = 0;
        loop {
            if let ServerToDevice::Snapshot(chunk) = self.next_frame()? {
                rows += chunk.rows.len() as u64;
                if chunk.done.is_some() {
                    return Ok(rows);
                }
            }
        }
    }
}

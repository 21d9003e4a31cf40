//! The connection itself, to a server that is a script.

use futures_util::{SinkExt, StreamExt};
use springhead_device::Device;
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, DeviceToServer, HandshakeAck, HandshakeAnswer, Limits, Ping, Seq,
    ServerToDevice,
};
use springhead_proto::{Cursor, Epoch, Lsn};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::directory;

/// More than a device takes in at a time.
const TOGETHER: u64 = 1_000;

async fn heard(socket: &mut WebSocketStream<TcpStream>) -> DeviceToServer {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => {
                return DeviceToServer::from_bytes(&bytes, 1 << 20).unwrap();
            }
            other => assert!(other.is_ping() || other.is_pong(), "{other:?}"),
        }
    }
}

fn binary(frame: &ServerToDevice) -> Message {
    Message::Binary(frame.to_bytes().into())
}

fn welcome() -> ServerToDevice {
    ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(HandshakeAck {
        protocol: 1,
        session: "script".to_owned(),
        user: "ann".to_owned(),
        cursor: Cursor::new(Lsn::ZERO, Epoch(1)),
        server_ms: 0,
        next_seq: Seq::FIRST,
        catalog_version: CatalogVersion(0),
        catalog_hash: CatalogHash::default(),
        limits: Limits::default(),
        token_expires_ms: None,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_of_many_frames_that_come_together_none_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    device
        .connect(&format!("ws://{address}/sync"), None)
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let hello = heard(&mut socket).await;
    assert!(matches!(hello, DeviceToServer::Handshake(_)));
    socket.feed(binary(&welcome())).await.unwrap();
    // Each is to be answered by its number.
    for nonce in 1..=TOGETHER {
        let ping = Ping {
            nonce,
            reply: false,
        };
        socket
            .feed(binary(&ServerToDevice::Ping(ping)))
            .await
            .unwrap();
    }
    socket.flush().await.unwrap();
    for nonce in 1..=TOGETHER {
        let expected = Ping { nonce, reply: true };
        assert_eq!(heard(&mut socket).await, DeviceToServer::Ping(expected));
    }
    device.close().await;
}

//! `/sync`, spoken to by devices that are nothing but frames.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use springhead_proto::Cursor;
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, ColumnValues, DeltaVerb, DeviceId, DeviceToServer, Generation,
    Handshake, HandshakeAnswer, Mutation, Operation, Ping, ProducerId, Push, Seq, ServerToDevice,
    Shape, ShapeId, Subscription, SyncErrorCode, SyncValue, Verb, Verdict,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Node, PATIENCE};

struct Device {
    socket: WebSocketStream<TcpStream>,
    producer: ProducerId,
    next: Seq,
}

impl Device {
    async fn dial(node: &Node, number: u128) -> Device {
        let stream = TcpStream::connect(node.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{}/sync", node.address);
        let (socket, _) = client_async(url, stream).await.unwrap();
        Device {
            socket,
            producer: ProducerId(number),
            next: Seq::FIRST,
        }
    }

    async fn connect(node: &Node, number: u128, shapes: &[Shape]) -> Device {
        let mut device = Device::dial(node, number).await;
        let answer = device.hello(shapes, None).await;
        assert!(matches!(answer, HandshakeAnswer::Accepted(_)), "{answer:?}");
        device
    }

    async fn hello(&mut self, shapes: &[Shape], token: Option<&str>) -> HandshakeAnswer {
        self.say(DeviceToServer::Handshake(Handshake {
            protocol: 1,
            token: token.map(str::to_owned),
            tenant: None,
            device: DeviceId(self.producer.0),
            producer: self.producer,
            generation: Generation::FIRST,
            cursor: None,
            catalog_version: CatalogVersion(0),
            catalog_hash: CatalogHash::default(),
            settled: Seq::ZERO,
            shapes: shapes
                .iter()
                .map(|shape| Subscription {
                    shape: shape.clone(),
                    complete: false,
                    resume: None,
                })
                .collect(),
            client: "test".to_owned(),
        }))
        .await;
        match self.next().await {
            Ok(ServerToDevice::HandshakeAck(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, frame: DeviceToServer) {
        self.raw(frame.to_bytes()).await;
    }

    async fn raw(&mut self, bytes: Vec<u8>) {
        self.socket
            .send(Message::Binary(bytes.into()))
            .await
            .unwrap();
    }

    /// The next frame, or the code that the socket is closed with.
    async fn next(&mut self) -> Result<ServerToDevice, u16> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .unwrap();
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    return Ok(ServerToDevice::from_bytes(&bytes, 16 << 20).unwrap());
                }
                Some(Ok(Message::Close(Some(close)))) => return Err(close.code.into()),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The error that ends it, and the code of the close after it.
    async fn end(&mut self) -> SyncErrorCode {
        loop {
            match self.next().await {
                Ok(ServerToDevice::Error(error)) => {
                    assert!(error.closing);
                    assert_eq!(self.next().await.unwrap_err(), error.code.close_code());
                    return error.code;
                }
                Ok(_) => {}
                Err(code) => panic!("closed with {code} and no error frame"),
            }
        }
    }

    async fn push(&mut self, verbs: Vec<(i64, Verb)>) {
        let mutations = verbs
            .into_iter()
            .map(|(id, verb)| {
                let seq = self.next;
                self.next = seq.next();
                Mutation {
                    producer: self.producer,
                    generation: Generation::FIRST,
                    seq,
                    base: Cursor {
                        lsn: springhead_proto::Lsn::ZERO,
                        epoch: None,
                    },
                    schema_version: CatalogVersion(0),
                    after: Vec::new(),
                    hlc: None,
                    operations: vec![Operation {
                        collection: "notes".to_owned(),
                        id: vec![id.into()],
                        verb,
                    }],
                }
            })
            .collect();
        self.say(DeviceToServer::Push(Push {
            producer: self.producer,
            generation: Generation::FIRST,
            mutations,
        }))
        .await;
    }

    /// Frames until one is wanted.
    async fn until<T>(&mut self, mut wanted: impl FnMut(ServerToDevice) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await.unwrap()) {
                return found;
            }
        }
    }
}

fn body(text: &str) -> ColumnValues {
    [("body", text)].into_iter().collect()
}

fn notes(id: u32) -> Shape {
    Shape {
        id: ShapeId(id),
        collection: "notes".to_owned(),
        condition: None,
        params: Vec::new(),
        columns: Vec::new(),
    }
}

fn node() -> Node {
    let node = Node::start();
    node.sql("CREATE TABLE notes (id integer PRIMARY KEY, body text UNIQUE)");
    node
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn g9_what_one_device_writes_another_sees() {
    let node = node();
    run(async {
        let mut writer = Device::connect(&node, 1, &[]).await;
        let mut reader = Device::connect(&node, 2, &[notes(7)]).await;
        reader
            .until(|frame| match frame {
                ServerToDevice::Snapshot(chunk) => chunk.done,
                _ => None,
            })
            .await;
        let begun = Instant::now();
        writer
            .push(vec![
                (1, Verb::Insert(body("milk"))),
                (2, Verb::Insert(body("milk"))),
                (3, Verb::Insert(body("bread"))),
            ])
            .await;
        let put = reader
            .until(|frame| match frame {
                ServerToDevice::Delta(delta) => delta.changes.into_iter().next(),
                _ => None,
            })
            .await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(put.id, [SyncValue::Integer(1)]);
        assert_eq!(put.verb, DeltaVerb::Put(body("milk")));
        let mut verdicts = Vec::new();
        while verdicts.len() < 3 {
            match writer.next().await.unwrap() {
                ServerToDevice::Ack(ack) => {
                    verdicts.extend(ack.verdicts.into_iter().map(|(_, verdict)| verdict));
                }
                ServerToDevice::Reject(reject) => {
                    verdicts.push(Verdict::Rejected(Box::new(reject.rejection)));
                }
                _ => {}
            }
        }
        assert!(
            matches!(verdicts[0], Verdict::Applied { .. }),
            "{verdicts:?}"
        );
        let Verdict::Rejected(rejection) = &verdicts[1] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(rejection.violation.to_string(), "unique:body=milk");
        assert!(
            matches!(verdicts[2], Verdict::Applied { .. }),
            "{verdicts:?}"
        );
    });
    let letters = node.send(
        "POST",
        "/v1/sql",
        &serde_json::json!({ "sql": "SELECT collection, violation_type FROM springhead.dead_letters" }),
    );
    assert_eq!(
        letters.json()["rows"],
        serde_json::json!([["notes", "unique"]])
    );
    assert_eq!(
        node.metric("springhead_sync_mutations_total{verdict=\"applied\"}"),
        2
    );
    node.wait_for_metric("springhead_subscribers{exit=\"sync\"}", 0);
}

#[test]
fn g7_frames_that_are_none_get_a_typed_error_and_a_clean_close() {
    let node = node();
    let good = DeviceToServer::Ping(Ping {
        nonce: 1,
        reply: false,
    })
    .to_bytes();
    let changed = |place: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[place] = to;
        bytes
    };
    let cases = [
        (changed(0, 9), SyncErrorCode::UnsupportedVersion),
        (changed(good.len() - 1, 0x55), SyncErrorCode::DamagedFrame),
        (good[..5].to_vec(), SyncErrorCode::DamagedFrame),
        (Vec::new(), SyncErrorCode::DamagedFrame),
        (vec![1; (1 << 20) + 1], SyncErrorCode::FrameTooLarge),
        (vec![1; 4 << 20], SyncErrorCode::FrameTooLarge),
        (
            ServerToDevice::Ping(Ping {
                nonce: 1,
                reply: false,
            })
            .to_bytes(),
            SyncErrorCode::Unknown,
        ),
    ];
    run(async {
        for (number, (bytes, expected)) in (1..).zip(cases) {
            let mut device = Device::connect(&node, number, &[]).await;
            if expected == SyncErrorCode::Unknown {
                // The same bytes from either side: this one is a ping.
                device.raw(bytes).await;
                let pong = device
                    .until(|frame| match frame {
                        ServerToDevice::Ping(ping) => Some(ping),
                        _ => None,
                    })
                    .await;
                assert!(pong.reply);
                continue;
            }
            device.raw(bytes).await;
            assert_eq!(device.end().await, expected);
        }
        let mut device = Device::connect(&node, 50, &[]).await;
        device
            .socket
            .send(Message::Text("hello".into()))
            .await
            .unwrap();
        assert_eq!(device.end().await, SyncErrorCode::ProtocolViolation);
        let mut device = Device::dial(&node, 51).await;
        device.push(vec![(1, Verb::Delete)]).await;
        assert_eq!(device.end().await, SyncErrorCode::ProtocolViolation);
        // Nobody else was harmed.
        let mut device = Device::connect(&node, 52, &[]).await;
        device.push(vec![(1, Verb::Delete)]).await;
        device
            .until(|frame| match frame {
                ServerToDevice::Ack(ack) => ack.verdicts.into_iter().next(),
                _ => None,
            })
            .await;
    });
}

#[test]
fn g6_a_device_says_who_it_is_in_its_first_frame() {
    let node = node();
    let token = {
        let answer = node.send(
            "POST",
            "/v1/sql",
            &serde_json::json!({ "sql": "CREATE ROLE ann LOGIN" }),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sql = "CREATE TOKEN phone FOR ann";
        let answer = node.send("POST", "/v1/sql", &serde_json::json!({ "sql": sql }));
        (answer.status == 200).then(|| answer.json()["rows"][0][1].as_str().unwrap().to_owned())
    };
    run(async {
        let mut device = Device::dial(&node, 1).await;
        let HandshakeAnswer::Refused(refused) = device.hello(&[], Some("nonsense")).await else {
            panic!("a token that is none was accepted")
        };
        assert_eq!(refused.code, SyncErrorCode::Unauthenticated);
        assert_eq!(device.next().await.unwrap_err(), refused.code.close_code());
        if let Some(token) = &token {
            let mut device = Device::dial(&node, 2).await;
            let HandshakeAnswer::Accepted(ack) = device.hello(&[], Some(token)).await else {
                panic!("refused")
            };
            assert_eq!(ack.user, "ann");
        }
    });
}
